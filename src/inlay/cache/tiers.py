"""The cache as the service sees it: tiers asked in order, a hit below refilling those above.

In: keys, or entries. Out: entries. A cache can only make things faster: a tier that fails is a miss and a
counter, never an error to the client.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Protocol

from inlay.cache.breaker import Breaker
from inlay.telemetry.logs import Complaints, get_logger
from inlay.telemetry.tracing import recorded_trace
from inlay.types import Entry

log = get_logger("cache")

FILL_SECONDS = 10.0  # for one write; a tier that takes longer is one that does not answer
CLOSE_SECONDS = 5.0
MOST_BEHIND = 64  # refills under way


IsGood = Callable[[Entry], bool]  # can an entry be what was asked for


class Tier(Protocol):
    """One place where entries are kept, under its own bound."""

    @property
    def name(self) -> str: ...

    @property
    def lookup_seconds(self) -> float | None:
        """After so long a look-up is a miss; None for tiers that answer at once."""
        ...

    def numbers(self) -> Mapping[str, float]:
        """What the tier counts itself, such as its bytes; errors are added to those that it raised."""
        ...

    async def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Entry]: ...

    async def put_many(self, entries: Mapping[bytes, Entry]) -> None: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class TierStats:
    """Totals since start, for the metrics."""

    gets: int = 0  # keys asked for
    hits: int = 0
    puts: int = 0
    errors: int = 0
    seconds: float = 0.0  # spent in look-ups


class Cache:
    """Tiers in the order they are asked. Without tiers it holds nothing and costs nothing.

    Tiers that may have to wait (for a disk) are asked under a deadline, filled behind the reply, and left alone
    by a breaker when they do not answer.
    """

    def __init__(self, tiers: list[Tier]) -> None:
        self.tiers = tiers
        self.stats = [TierStats() for _ in tiers]
        self._complaints = Complaints(log)
        self._breakers = [Breaker(tier.name, partial(_probe, tier)) for tier in tiers]
        self._behind: set[asyncio.Task[None]] = set()

    async def get_many(self, keys: Iterable[bytes], is_good: IsGood | None = None) -> dict[bytes, Entry]:
        """All entries that any tier holds; those that are not good are misses and errors of the tier."""
        found: dict[bytes, Entry] = {}
        wanted = list(keys)
        for depth, tier in enumerate(self.tiers):
            if not wanted:
                break
            here = await self._ask(depth, tier, wanted)
            if is_good is not None:
                here = self._good_of(depth, here, is_good)
            if here:
                for above in range(depth):
                    await self._refill(above, here)
                found |= here
                wanted = [key for key in wanted if key not in here]
        return found

    async def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Keep entries in every tier."""
        for depth in range(len(self.tiers)):
            await self._fill(depth, entries)

    async def close(self) -> bool:
        """Finish what is under way, within a bound; False where a tier did not end in time."""
        if self._behind:
            await asyncio.wait(self._behind, timeout=CLOSE_SECONDS)
        are_closed = [await self._close(tier) for tier in self.tiers]
        for breaker in self._breakers:
            await breaker.close()
        return all(are_closed)

    def numbers(self) -> list[tuple[str, Mapping[str, float]]]:
        """Each tier's name (numbered from the second of its kind on) and numbers, for the metrics."""
        seen: Counter[str] = Counter()
        listed: list[tuple[str, Mapping[str, float]]] = []
        for tier, stats, breaker in zip(self.tiers, self.stats, self._breakers, strict=True):
            seen[tier.name] += 1
            name = tier.name if seen[tier.name] == 1 else f"{tier.name}-{seen[tier.name]}"
            own: Mapping[str, float] = {}
            try:
                own = tier.numbers()
            except Exception as error:  # noqa: BLE001 - its directory may have gone
                self._complaints.tell("cache tier cannot be counted", tier.name, error)
            both = {"breaker_open": int(breaker.is_open), **own, "errors": stats.errors + own.get("errors", 0)}
            listed.append((name, {**asdict(stats), **both}))
        return listed

    def _good_of(self, depth: int, here: dict[bytes, Entry], is_good: IsGood) -> dict[bytes, Entry]:
        """A shared store is not ours alone: what cannot be the model's goes no further."""
        bad = [key for key, entry in here.items() if not is_good(entry)]
        if not bad:
            return here
        self.stats[depth].hits -= len(bad)
        error = ValueError(f"{len(bad)} entries are not of the kind or length that the model gives")
        self._note(depth, "read", error, "cache tier has entries of another kind or length")
        return {key: entry for key, entry in here.items() if key not in bad}

    async def _ask(self, depth: int, tier: Tier, keys: list[bytes]) -> dict[bytes, Entry]:
        stats, breaker = self.stats[depth], self._breakers[depth]
        stats.gets += len(keys)
        if breaker.is_open:
            return {}
        began = time.monotonic()
        here: dict[bytes, Entry] = {}
        try:
            if tier.lookup_seconds is None:
                here = await tier.get_many(keys)
            else:
                async with asyncio.timeout(tier.lookup_seconds):
                    here = await tier.get_many(keys)
            breaker.succeed("read")
        except Exception as error:  # noqa: BLE001 - a broken tier is a miss
            self._note(depth, "read", error, "cache tier failed; going on without it")
        ended = time.monotonic()
        stats.seconds += ended - began
        stats.hits += len(here)
        if (trace := recorded_trace()) is not None:
            trace.record(f"cache {tier.name}", began, ended, {"inlay.keys": len(keys), "inlay.hits": len(here)})
        return here

    async def _refill(self, depth: int, entries: Mapping[bytes, Entry]) -> None:
        """At once where that is quick, else behind the reply."""
        if self.tiers[depth].lookup_seconds is None:
            await self._fill(depth, entries)
        elif len(self._behind) < MOST_BEHIND:
            fill = asyncio.get_running_loop().create_task(self._fill(depth, entries))
            self._behind.add(fill)
            fill.add_done_callback(self._behind.discard)

    async def _fill(self, depth: int, entries: Mapping[bytes, Entry]) -> None:
        tier, stats, breaker = self.tiers[depth], self.stats[depth], self._breakers[depth]
        if breaker.is_open:
            return
        try:
            async with asyncio.timeout(FILL_SECONDS):
                await tier.put_many(entries)
            stats.puts += len(entries)
            breaker.succeed("write")
        except Exception as error:  # noqa: BLE001 - a broken tier keeps nothing
            self._note(depth, "write", error, "cache tier failed to keep entries")

    def _note(self, depth: int, kind: str, error: Exception, event: str) -> None:
        """Count a failure and tell of it; only a tier that was waited for in vain is left alone."""
        self.stats[depth].errors += 1
        self._complaints.tell(event, self.tiers[depth].name, error)
        if isinstance(error, TimeoutError):
            self._breakers[depth].fail(kind, error)

    async def _close(self, tier: Tier) -> bool:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await tier.close()
        except Exception as error:  # noqa: BLE001 - the others are closed all the same
            self._complaints.tell("cache tier did not close", tier.name, error)
            return not isinstance(error, TimeoutError)
        return True


async def _probe(tier: Tier) -> None:
    """Raises while the tier does not answer."""
    async with asyncio.timeout(tier.lookup_seconds):
        await tier.get_many([])
