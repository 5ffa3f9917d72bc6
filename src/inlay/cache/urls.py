"""Tiers from URLs, such as `memory://512MiB`: what `--cache` takes.

In: URLs in the order they are asked. Out: a `Cache`. What is invalid is a `ConfigError` that names the URL, without
its password. A tier's library is loaded only where a URL asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from inlay.cache.memory import MemoryTier
from inlay.cache.record import Signer
from inlay.cache.tiers import Cache, Tier
from inlay.errors import ConfigError
from inlay.quantities import parse_duration, parse_size
from inlay.telemetry.logs import get_logger

if TYPE_CHECKING:
    from inlay.corpus.corpus import Corpus

log = get_logger("cache")

NO_CACHE = "none"
REDIS = ("redis", "rediss")
SHORTEST_SECRET = 16  # characters
DISK_SIZE = "10GiB"
REDIS_TIMEOUT = "75ms"
USAGE = (
    "memory://512MiB, disk:///DIRECTORY?size=50GiB&ttl=30d, redis://HOST:6379/0?ttl=7d, corpus:///DIRECTORY, or none"
)


def make_cache(urls: list[str], corpora: Iterable[Corpus] = (), secret: str | None = None) -> Cache:
    """Tiers from URLs, in their order; `none` alone for no cache. `ConfigError` names a URL that is invalid.

    Corpora that are served for search are tiers too, behind the memory. With a secret, what is kept where others may
    write is signed.
    """
    if NO_CACHE in urls:
        if len(urls) > 1:
            raise ConfigError("--cache none stands alone: leave out the other tiers, or leave out none")
        return Cache([])
    signer = None if secret is None else Signer(secret)
    tiers = [_make_tier(url, signer) for url in urls]
    place = next((place for place, tier in enumerate(tiers) if not isinstance(tier, MemoryTier)), len(tiers))
    for corpus in corpora:
        if corpus.is_exact:
            tiers.insert(place, _make_served(corpus))
        else:
            log.info("corpus is of f16 and serves search alone, not as a cache", corpus=str(corpus.path))
    return Cache(tiers)


def read_secret(secret: str | None, file: str | None) -> str | None:
    """The secret that signs entries, from a setting or a file."""
    if file is not None:
        if secret is not None:
            raise ConfigError("--cache-secret and --cache-secret-file are both given: leave one out")
        try:
            secret = Path(file).expanduser().read_text("utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--cache-secret-file {file} cannot be read: {error}") from error
    if secret is not None and len(secret) < SHORTEST_SECRET:
        raise ConfigError(f"the cache's secret has under {SHORTEST_SECRET} characters: openssl rand -hex 32 makes one")
    return secret


def _make_tier(url: str, signer: Signer | None) -> Tier:
    parts = urlsplit(url)
    shown = _redacted(parts)
    if parts.scheme not in (*_MAKERS, *REDIS):
        raise ConfigError(f"--cache {shown}: there is no such tier; use {USAGE}")
    try:
        return _make_redis(parts, signer) if parts.scheme in REDIS else _MAKERS[parts.scheme](parts)
    except (ValueError, KeyError) as error:
        raise ConfigError(f"--cache {shown}: {error.args[0]}; use {USAGE}") from error
    except ImportError as error:
        raise ConfigError(f"--cache {shown} needs the package {error.name}: pip install 'inlay[redis]'") from error


def _make_memory(parts: SplitResult) -> Tier:
    return MemoryTier(parse_size(parts.netloc + parts.path))


def _make_disk(parts: SplitResult) -> Tier:
    from inlay.cache.disk.directory import open_disk

    options = _options_of(parts, "size", "ttl")
    if parts.netloc or not parts.path.strip("/"):
        raise ValueError("the directory must be an absolute path, as in disk:///var/cache/inlay")
    return open_disk(Path(unquote(parts.path)), parse_size(options.get("size", DISK_SIZE)), _ttl_of(options))


def _make_redis(parts: SplitResult, signer: Signer | None) -> Tier:
    from inlay.cache.redis import RedisTier

    options = _options_of(parts, "ttl", "timeout")
    if not parts.hostname:
        raise ValueError("the host is missing")
    if parts.path.strip("/") and not parts.path.strip("/").isdigit():
        raise ValueError("the path is the number of a database, as in redis://host:6379/0")
    timeout = parse_duration(options.get("timeout", REDIS_TIMEOUT))
    return RedisTier(urlunsplit(parts._replace(query="")), _ttl_of(options), timeout, signer)


def _make_corpus(parts: SplitResult) -> Tier:
    from inlay.corpus.tier import open_corpus_tier

    _options_of(parts)
    return open_corpus_tier(Path(unquote(parts.netloc + parts.path)))


def _make_served(corpus: Corpus) -> Tier:
    from inlay.corpus.tier import CorpusTier

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
    "corpus": _make_corpus,
}
