"""The cache as the service sees it: tiers asked in order, a hit below refilling those above.

In: keys, or entries. Out: entries. A cache can only make things faster: a tier that fails is a miss and a
counter, never an error to the client. Tiers are given as URLs, such as `memory://512MiB`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from inlay.cache.memory import MemoryTier
from inlay.config import parse_duration, parse_size
from inlay.errors import ConfigError
from inlay.telemetry.logs import Complaints, get_logger
from inlay.types import Entry

if TYPE_CHECKING:
    from inlay.corpus.store import Corpus

log = get_logger("cache")

NO_CACHE = "none"
DISK_SIZE = "10GiB"
REDIS_TIMEOUT = "75ms"
USAGE = (
    "memory://512MiB, disk:///DIRECTORY?size=50GiB&ttl=30d, redis://HOST:6379/0?ttl=7d, corpus:///DIRECTORY, or none"
)


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


def make_cache(urls: list[str], corpora: Iterable[Corpus] = ()) -> Cache:
    """Tiers from URLs, in their order; `none` alone for no cache. `ConfigError` names a URL that is off.

    Corpora that are served for search are tiers too, behind the memory.
    """
    if NO_CACHE in urls:
        if len(urls) > 1:
            raise ConfigError("--cache none stands alone: leave out the other tiers, or leave out none")
        return Cache([])
    tiers = [_make_tier(url) for url in urls]
    place = next((place for place, tier in enumerate(tiers) if tier.lookup_seconds is not None), len(tiers))
    for corpus in corpora:
        if corpus.is_exact:
            tiers.insert(place, _make_served(corpus))
        else:
            log.info("corpus is of f16 and serves search alone, not as a cache", corpus=str(corpus.path))
    return Cache(tiers)


def _make_tier(url: str) -> Tier:
    parts = urlsplit(url)
    shown = _redacted(parts)
    if parts.scheme not in _MAKERS:
        raise ConfigError(f"--cache {shown}: there is no such tier; use {USAGE}")
    try:
        return _MAKERS[parts.scheme](parts)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"--cache {shown}: {error.args[0]}; use {USAGE}") from error
    except ImportError as error:
        raise ConfigError(f"--cache {shown} needs the package {error.name}: pip install 'inlay[redis]'") from error


def _make_memory(parts: SplitResult) -> Tier:
    return MemoryTier(parse_size(parts.netloc + parts.path))


def _make_disk(parts: SplitResult) -> Tier:
    from inlay.cache.directory import open_disk

    options = _options_of(parts, "size", "ttl")
    if parts.netloc or not parts.path.strip("/"):
        raise ValueError("the directory must be an absolute path, as in disk:///var/cache/inlay")
    return open_disk(Path(unquote(parts.path)), parse_size(options.get("size", DISK_SIZE)), _ttl_of(options))


def _make_redis(parts: SplitResult) -> Tier:
    from inlay.cache.redis import RedisTier

    options = _options_of(parts, "ttl", "timeout")
    if not parts.hostname:
        raise ValueError("the host is missing")
    if parts.path.strip("/") and not parts.path.strip("/").isdigit():
        raise ValueError("the path is the number of a database, as in redis://host:6379/0")
    timeout = parse_duration(options.get("timeout", REDIS_TIMEOUT))
    return RedisTier(urlunsplit(parts._replace(query="")), _ttl_of(options), timeout)


def _make_corpus(parts: SplitResult) -> Tier:
    from inlay.cache.corpus import open_corpus_tier

    _options_of(parts)
    return open_corpus_tier(Path(unquote(parts.netloc + parts.path)))


def _make_served(corpus: Corpus) -> Tier:
    from inlay.cache.corpus import CorpusTier

    return CorpusTier(corpus)


def _options_of(parts: SplitResult, *known: str) -> dict[str, str]:
    options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    unknown = options.keys() - set(known)
    if unknown:
        raise ValueError(f"there is no option {unknown.pop()!r}")
    return options


def _ttl_of(options: Mapping[str, str]) -> float | None:
    return parse_duration(options["ttl"]) if "ttl" in options else None


def _redacted(parts: SplitResult) -> str:
    """A URL without its password, for messages."""
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


_MAKERS: Mapping[str, Callable[[SplitResult], Tier]] = {
    "memory": _make_memory,
    "disk": _make_disk,
    "redis": _make_redis,
    "rediss": _make_redis,
    "corpus": _make_corpus,
}
