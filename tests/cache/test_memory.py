from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.cache.memory import ENTRY_OVERHEAD, MemoryTier
from inlay.types import Entry


def entry(value: float, width: int = 4) -> Entry:
    return Entry(np.full(width, value, dtype=np.float32), num_tokens=3, is_truncated=False)


def test_what_is_put_is_got_with_its_tokens() -> None:
    async def story() -> None:
        tier = MemoryTier(1 << 20)
        await tier.put_many({b"a": entry(1), b"b": Entry(np.zeros(4, dtype=np.float32), 7, True)})
        found = await tier.get_many([b"a", b"b", b"c"])
        assert found.keys() == {b"a", b"b"}
        assert found[b"a"].vector.tolist() == [1, 1, 1, 1]
        assert (found[b"b"].num_tokens, found[b"b"].is_truncated) == (7, True)

    asyncio.run(story())


def test_a_kept_vector_cannot_be_changed_by_anyone() -> None:
    async def story() -> None:
        tier = MemoryTier(1 << 20)
        batch = np.ones((2, 4), dtype=np.float32)
        await tier.put_many({b"a": Entry(batch[0], 1, False)})
        batch[0] = 5
        found = (await tier.get_many([b"a"]))[b"a"].vector
        assert found.tolist() == [1, 1, 1, 1]
        assert found.base is None
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 9

    asyncio.run(story())


def test_the_least_recently_used_goes_first() -> None:
    async def story() -> None:
        tier = MemoryTier(2 * (16 + ENTRY_OVERHEAD))
        await tier.put_many({b"a": entry(1), b"b": entry(2)})
        await tier.get_many([b"a"])
        await tier.put_many({b"c": entry(3)})
        assert (await tier.get_many([b"a", b"b", b"c"])).keys() == {b"a", b"c"}
        assert tier.numbers() == {"entries": 2, "bytes": tier.max_bytes, "evictions": 1}

    asyncio.run(story())


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 200)), max_size=60), st.integers(0, 8000))
def test_the_bound_in_bytes_always_holds(puts: list[tuple[int, int]], max_bytes: int) -> None:
    async def story() -> None:
        tier = MemoryTier(max_bytes)
        for key, width in puts:
            await tier.put_many({bytes([key]): entry(key, width)})
            assert tier.num_bytes <= max_bytes
        kept = await tier.get_many([bytes([key]) for key in range(31)])
        assert tier.num_bytes == sum(found.vector.nbytes + ENTRY_OVERHEAD for found in kept.values())

    asyncio.run(story())
