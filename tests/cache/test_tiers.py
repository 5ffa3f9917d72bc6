from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import numpy as np
import pytest
from entries import dense

from inlay.cache.breaker import FAILURES, Breaker
from inlay.cache.memory import MemoryTier
from inlay.cache.tiers import Cache
from inlay.cache.urls import make_cache
from inlay.errors import ConfigError
from inlay.types import Entry

ENTRY = dense(np.ones(4, dtype=np.float32), 3, False)


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
    "urls", [["memory://"], ["memory://lots"], ["disk:///tmp/x?size=lots"], ["none", "memory://1MiB"], ["512MiB"]]
)
def test_a_url_that_is_invalid_is_named(urls: list[str]) -> None:
    with pytest.raises(ConfigError, match="--cache"):
        make_cache(urls)


class HangingTier(MemoryTier):
    """Answers nothing while its gate is shut."""

    name = "hanging"
    lookup_seconds = 0.02

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.gate = asyncio.Event()
        self.calls = 0

    async def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Entry]:
        self.calls += 1
        await self.gate.wait()
        return await super().get_many(keys)

    async def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        await self.gate.wait()
        await super().put_many(entries)

    async def close(self) -> None:
        await self.gate.wait()


def test_a_tier_that_hangs_is_left_alone_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inlay.cache.breaker.PROBE_SECONDS", 0.02)
    monkeypatch.setattr("inlay.cache.tiers.FILL_SECONDS", 0.05)

    async def story() -> None:
        hanging, below = HangingTier(), MemoryTier(1 << 20)
        await below.put_many({b"a": ENTRY})
        cache = Cache([hanging, below])
        for _ in range(3):
            assert (await cache.get_many([b"a"])).keys() == {b"a"}, "a tier above that hangs must not hide a hit"
        asked = hanging.calls
        assert dict(cache.numbers())["hanging"]["breaker_open"] == 1
        await cache.get_many([b"a"])
        assert hanging.calls == asked
        hanging.gate.set()
        await asyncio.sleep(0.2)
        assert dict(cache.numbers())["hanging"]["breaker_open"] == 0
        await cache.put_many({b"b": ENTRY})
        assert (await cache.get_many([b"b"])).keys() == {b"b"}
        assert await cache.close()

    asyncio.run(story())


def test_a_tier_that_does_not_close_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inlay.cache.tiers.CLOSE_SECONDS", 0.05)

    async def story() -> None:
        assert not await Cache([HangingTier()]).close()

    asyncio.run(story())


def test_a_tier_that_cannot_be_counted_does_not_hide_the_others() -> None:
    class Uncountable(MemoryTier):
        name = "uncountable"

        def numbers(self) -> Mapping[str, float]:
            raise FileNotFoundError("its directory has gone")

    numbers = dict(Cache([Uncountable(1 << 20), MemoryTier(1 << 20)]).numbers())
    assert numbers["memory"]["entries"] == 0
    assert numbers["uncountable"]["gets"] == 0


def test_slow_reads_open_a_breaker_whatever_writes_do() -> None:
    async def story() -> None:
        async def probe() -> None:
            raise OSError

        breaker = Breaker("test", probe)
        for _ in range(FAILURES):
            breaker.fail("read", TimeoutError())
            breaker.succeed("write")
        assert breaker.is_open
        await breaker.close()

    asyncio.run(story())


def test_two_tiers_of_a_kind_are_told_apart() -> None:
    assert [name for name, _ in Cache([MemoryTier(1), MemoryTier(1)]).numbers()] == ["memory", "memory-2"]
