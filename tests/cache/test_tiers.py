from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import numpy as np
import pytest

from inlay.cache.memory import MemoryTier
from inlay.cache.tiers import Cache
from inlay.cache.urls import make_cache
from inlay.errors import ConfigError
from inlay.types import Entry

ENTRY = Entry(np.ones(4, dtype=np.float32), 3, False)


class BrokenTier(MemoryTier):
    name = "broken"

    async def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Entry]:
        raise OSError("gone")

    async def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        raise OSError("gone")


def test_a_hit_below_refills_the_tiers_above() -> None:
    async def story() -> None:
        above, below = MemoryTier(1 << 20), MemoryTier(1 << 20)
        await below.put_many({b"a": ENTRY})
        cache = Cache([above, below])
        assert (await cache.get_many([b"a", b"b"])).keys() == {b"a"}
        assert (await above.get_many([b"a"])).keys() == {b"a"}
        assert [(stats.gets, stats.hits) for stats in cache.stats] == [(2, 0), (2, 1)]

    asyncio.run(story())


def test_a_broken_tier_is_a_miss_and_a_counter() -> None:
    async def story() -> None:
        healthy = MemoryTier(1 << 20)
        cache = Cache([BrokenTier(1), healthy])
        await cache.put_many({b"a": ENTRY})
        assert (await cache.get_many([b"a"])).keys() == {b"a"}
        assert cache.stats[0].errors == 3  # a put, a get, and the refill
        assert dict(cache.numbers())["broken"]["errors"] == 3

    asyncio.run(story())


def test_urls_make_tiers() -> None:
    (tier,) = make_cache(["memory://2MiB"]).tiers
    assert isinstance(tier, MemoryTier)
    assert tier.max_bytes == 2 << 20
    assert make_cache(["none"]).tiers == []


@pytest.mark.parametrize(
    "urls", [["memory://"], ["memory://lots"], ["disk:///tmp/x"], ["none", "memory://1MiB"], ["512MiB"]]
)
def test_a_url_that_is_off_is_named(urls: list[str]) -> None:
    with pytest.raises(ConfigError, match="--cache"):
        make_cache(urls)
