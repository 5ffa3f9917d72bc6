from __future__ import annotations

import asyncio
import hashlib
import tracemalloc

import numpy as np
from entries import dense, vector_in
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.cache.memory import KEY_OVERHEAD, MemoryTier
from inlay.types import DENSE, Entry


def entry(value: float, width: int = 4) -> Entry:
    return dense(np.full(width, value), num_tokens=3)


def test_what_is_put_is_got_with_its_tokens() -> None:
    async def story() -> None:
        tier = MemoryTier(1 << 20)
        await tier.put_many({b"a": entry(1), b"b": dense(np.zeros(4, dtype=np.float32), 7, True)})
        found = await tier.get_many([b"a", b"b", b"c"])
        assert found.keys() == {b"a", b"b"}
        assert vector_in(found[b"a"]).tolist() == [1, 1, 1, 1]
        assert (found[b"b"].num_tokens, found[b"b"].is_truncated) == (7, True)

    asyncio.run(story())


def test_what_was_got_is_not_what_is_put_there_later() -> None:
    async def story() -> None:
        tier = MemoryTier(16 + KEY_OVERHEAD)
        await tier.put_many({b"a": entry(1)})
        found = (await tier.get_many([b"a"]))[b"a"]
        await tier.put_many({b"b": entry(2)})
        assert not await tier.get_many([b"a"])
        assert vector_in(found).tolist() == [1, 1, 1, 1]

    asyncio.run(story())


def test_when_it_is_full_what_was_asked_for_stays() -> None:
    async def story() -> None:
        tier = MemoryTier(40 * (16 + KEY_OVERHEAD))
        await tier.put_many({bytes([key]): entry(key) for key in range(40)})
        assert (len(tier), tier.num_bytes) == (40, tier.max_bytes)
        hot = [bytes([key]) for key in (3, 17, 39)]
        await tier.get_many(hot)
        await tier.put_many({bytes([100 + key]): entry(key) for key in range(100)})
        found = await tier.get_many(hot)
        assert [vector_in(found[key])[0] for key in hot] == [3, 17, 39]
        assert tier.numbers() == {"entries": 40, "bytes": tier.max_bytes, "evictions": 100}

    asyncio.run(story())


def test_what_does_not_fit_at_all_is_not_kept() -> None:
    async def story() -> None:
        tier = MemoryTier(100)
        await tier.put_many({b"a": entry(1)})
        assert not await tier.get_many([b"a"])

    asyncio.run(story())


def test_a_new_width_gets_room_from_the_largest_shelf() -> None:
    async def story() -> None:
        tier = MemoryTier(64 << 10)
        await tier.put_many({b"narrow %d" % key: entry(key, 4) for key in range(500)})
        await tier.put_many({b"wide": entry(7, 1000)})
        found = await tier.get_many([b"wide", b"narrow 0"])
        assert vector_in(found[b"wide"]).tolist() == [7] * 1000
        assert tier.num_bytes <= tier.max_bytes

    asyncio.run(story())


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from([1, 4, 50, 300]), st.booleans()), max_size=150),
    st.integers(0, 12_000),
)
def test_the_bound_always_holds_and_a_key_never_gets_anothers_vector(
    steps: list[tuple[int, int, bool]], max_bytes: int
) -> None:
    async def story() -> None:
        tier = MemoryTier(max_bytes)
        for number, width, is_read in steps:
            key = b"%d of %d" % (number, width)
            if is_read:
                found = await tier.get_many([key])
                assert not found or vector_in(found[key]).tolist() == [number] * width
            else:
                await tier.put_many({key: entry(number, width)})
            allocated = sum(slab.nbytes for shelf in tier._shelves.values() for slab in shelf.slabs)
            assert allocated + len(tier) * KEY_OVERHEAD <= tier.num_bytes <= max_bytes or not tier.num_bytes

    asyncio.run(story())


def test_the_bookkeeping_of_a_key_costs_no_more_than_is_counted() -> None:
    async def story() -> None:
        number = 20_000
        tier = MemoryTier(number * (16 + KEY_OVERHEAD))
        one = entry(1)
        tracemalloc.start()
        for _ in range(2):  # twice the capacity, so that the ghosts are there too
            for key in range(number):
                await tier.put_many({hashlib.sha256(b"%d %d" % (_, key)).digest(): one})
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert used <= tier.max_bytes

    asyncio.run(story())


def test_widths_share_the_room_as_far_as_they_need_it() -> None:
    async def story() -> None:
        tier = MemoryTier(1 << 20)
        await tier.put_many({b"narrow %d" % key: entry(key, 100) for key in range(2000)})
        for key in range(2000):
            await tier.put_many({b"wide %d" % key: entry(key, 200)})
        shelves = tier._shelves
        assert shelves[DENSE, 832].num_bytes > 0.4 * tier.max_bytes
        assert shelves[DENSE, 416].num_bytes > 0.4 * tier.max_bytes
        assert len(await tier.get_many([b"wide 1999"])) == 1

    asyncio.run(story())
