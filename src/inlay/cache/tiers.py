"""The cache as the service sees it: tiers asked in order, a hit below refilling those above.

In: keys, or entries. Out: entries. A cache can only make things faster: a tier that fails is a miss and a
counter, never an error to the client.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from inlay.telemetry.logs import Complaints, get_logger
from inlay.types import Entry

if TYPE_CHECKING:
    pass

log = get_logger("cache")


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
    """Tiers in the order they are asked. Without tiers it holds nothing and costs nothing."""

    def __init__(self, tiers: list[Tier]) -> None:
        self.tiers = tiers
        self.stats = [TierStats() for _ in tiers]
        self._complaints = Complaints(log)

    async def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Entry]:
        """All entries that any tier holds."""
        found: dict[bytes, Entry] = {}
        wanted = list(keys)
        for depth, tier in enumerate(self.tiers):
            if not wanted:
                break
            here = await self._ask(depth, tier, wanted)
            if here:
                for above in range(depth):
                    await self._fill(above, here)
                found |= here
                wanted = [key for key in wanted if key not in here]
        return found

    async def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Keep entries in every tier."""
        for depth in range(len(self.tiers)):
            await self._fill(depth, entries)

    async def close(self) -> None:
        for tier in self.tiers:
            await tier.close()

    def numbers(self) -> list[tuple[str, Mapping[str, float]]]:
        """Each tier's name (numbered from the second of its kind on) and numbers, for the metrics."""
        seen: Counter[str] = Counter()
        listed: list[tuple[str, Mapping[str, float]]] = []
        for tier, stats in zip(self.tiers, self.stats, strict=True):
            seen[tier.name] += 1
            name = tier.name if seen[tier.name] == 1 else f"{tier.name}-{seen[tier.name]}"
            own = tier.numbers()
            listed.append((name, {**asdict(stats), **own, "errors": stats.errors + own.get("errors", 0)}))
        return listed

    async def _ask(self, depth: int, tier: Tier, keys: list[bytes]) -> dict[bytes, Entry]:
        stats = self.stats[depth]
        began = time.perf_counter()
        try:
            if tier.lookup_seconds is None:
                here = await tier.get_many(keys)
            else:
                async with asyncio.timeout(tier.lookup_seconds):
                    here = await tier.get_many(keys)
        except Exception as error:  # noqa: BLE001 - a broken tier is a miss
            stats.errors += 1
            self._complaints.tell("cache tier failed; going on without it", tier.name, error)
            here = {}
        stats.seconds += time.perf_counter() - began
        stats.gets += len(keys)
        stats.hits += len(here)
        return here

    async def _fill(self, depth: int, entries: Mapping[bytes, Entry]) -> None:
        tier, stats = self.tiers[depth], self.stats[depth]
        try:
            await tier.put_many(entries)
            stats.puts += len(entries)
        except Exception as error:  # noqa: BLE001 - a broken tier keeps nothing
            stats.errors += 1
            self._complaints.tell("cache tier failed to keep entries", tier.name, error)
