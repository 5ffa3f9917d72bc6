"""All that an app needs besides models: caches, keys, corpora, jobs, traces.

In: the settings and the specs of what will be served. Out: an app around workers. Made before any model is loaded, so
that mistakes show at once. Knows nothing of sockets and processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from inlay.api.app import App, make_app
from inlay.api.auth import Keyring
from inlay.api.dialects.registry import by_path
from inlay.api.keys import BLANKS, read_keys
from inlay.api.ops import Processes
from inlay.cache.tiers import Cache
from inlay.cache.urls import make_cache, read_secret
from inlay.config import Settings
from inlay.corpus.search.batcher import SearchBatcher
from inlay.corpus.search.served_corpora import open_corpora
from inlay.errors import ConfigError
from inlay.jobs.directory import JobDirectory
from inlay.serving.fallbacks import parse_fallbacks
from inlay.serving.replacement import Loader
from inlay.serving.router import parse_aliases
from inlay.telemetry.otlp import make_tracer
from inlay.telemetry.tracing import Tracer
from inlay.types import ModelSpec, Worker


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is around the models."""

    cache: Cache
    keyring: Keyring
    corpora: Mapping[str, SearchBatcher]
    job_directory: JobDirectory | None
    tracer: Tracer | None

    @classmethod
    def of(cls, settings: Settings, specs: Sequence[ModelSpec]) -> Self:
        keyring = Keyring(read_keys(settings.api_key, settings.api_key_file), 1 / settings.front_ends)
        check_names(settings, specs, keyring)
        corpora = open_corpora(settings.corpus)
        secret = read_secret(settings.cache_secret, settings.cache_secret_file)
        cache = make_cache(settings.cache, [batcher.searcher.corpus for batcher in corpora.values()], secret)
        jobs = None if settings.jobs is None else JobDirectory(Path(settings.jobs), settings.max_jobs_bytes)
        return cls(cache, keyring, corpora, jobs, make_tracer(settings.otlp_endpoint))

    def make_app(
        self,
        workers: MutableMapping[str, Worker],
        settings: Settings,
        loader: Loader | None = None,
        processes: Processes | None = None,
        numbers_port: int | None = None,
    ) -> App:
        """The app for these models; see `Ops` for what it tells of processes beside it, `Replacer` for the loader."""
        given = (self.cache, self.corpora, self.keyring, settings, self.job_directory)
        return make_app(workers, *given, loader, processes, numbers_port, self.tracer)

    async def close(self) -> None:
        """For whoever has served nothing with them."""
        await self.cache.close()
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.close)


def check_names(settings: Settings, specs: Sequence[ModelSpec], keyring: Keyring) -> None:
    """`ConfigError` where an option names what there is not: a model, a dialect, an empty key."""
    if settings.admin_key is not None and not settings.admin_key.strip(BLANKS):
        raise ConfigError("--admin-key (INLAY_ADMIN_KEY) is empty: give it a key, or leave it out")
    by_path(settings.dialects)
    tasks = {name: one.task for spec in specs for name, one in {spec.name: spec, **spec.adapters}.items()}
    parse_aliases(settings.alias, tasks)
    parse_fallbacks(settings.fallback, tasks)
    if settings.fallback_always and not settings.fallback:
        raise ConfigError("--fallback-always is for models that have a fallback: add --fallback MODEL=OTHER")
    keyring.check_models(tasks)
