"""Whoever embeds or ranks for a verb, with the verb's options: a model in this process, or a running server."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import typer
from msgspec.structs import replace

from inlay.config import AUTO, Settings
from inlay.errors import ConfigError
from inlay.models.adapters import parse_adapter
from inlay.models.source import DEMO

if TYPE_CHECKING:
    from inlay.corpus.recipe import Recipe
    from inlay.library.embedder import Embedder
    from inlay.library.reranker import Reranker
    from inlay.library.runtime import EngineArguments
    from inlay.precompute.ingestion import Source


def open_embedder(model: str, settings: Settings, cache: str | Sequence[str] = "none") -> Embedder:
    from inlay.library.embedder import Embedder

    return Embedder(model, **_arguments_of(settings, cache))


def open_reranker(model: str, settings: Settings, cache: str | Sequence[str] = "none") -> Reranker:
    from inlay.library.reranker import Reranker

    return Reranker(model, **_arguments_of(settings, cache))


def _arguments_of(settings: Settings, cache: str | Sequence[str]) -> EngineArguments:
    """All of them, by the options of their names."""
    from inlay.library.runtime import EngineArguments

    given = {name: getattr(settings, name) for name in EngineArguments.__annotations__}
    return cast(EngineArguments, {**given, "cache": cache, "adapter": _sole_adapter(settings)})


def _sole_adapter(settings: Settings) -> str | None:
    if len(settings.adapter) > 1:
        raise ConfigError("--adapter is given several times: this verb runs one model; inlay serve takes several")
    return str(parse_adapter(settings.adapter[0])[1]) if settings.adapter else None


@contextmanager
def open_source(settings: Settings, model: str | None, made: Recipe | None = None) -> Iterator[Source]:
    """A running server when one is named, else a model in this process; of a corpus, whatever `made` it."""
    if settings.server is not None:
        from inlay.precompute.remote_source import RemoteSource

        fingerprint = None if made is None else made.fingerprint
        remote = RemoteSource(settings.server, model, next(iter(settings.api_key), None), fingerprint)
        try:
            if settings.dtype not in (AUTO, remote.spec.dtype):
                raise ConfigError(
                    f"--dtype {settings.dtype}: {settings.server} computes in {remote.spec.dtype}: leave it out, or "
                    "have a server compute in it"
                )
            yield remote
        finally:
            remote.close()
        return
    from inlay.precompute.local_source import LocalSource

    if made is not None and made.adapter is not None and not settings.adapter and model == made.model:
        settings = replace(settings, adapter=[made.adapter])
    with open_embedder(model or DEMO, settings) as embedder:
        yield LocalSource(embedder)


@contextmanager
def open_cluster(settings: Settings, address: str, model: str | None) -> Iterator[Source]:
    """The same model in actors of a Ray cluster."""
    from inlay.precompute.ray_source import RaySource

    if settings.server is not None:
        raise ConfigError("--on and --server are both given: name one of them")
    place = Path(model or DEMO).expanduser()
    model = str(place.resolve()) if place.is_dir() else model or DEMO  # actors may run in other directories
    source = RaySource(address, model, _arguments_of(settings, "none"), settings.ray_actors)
    try:
        yield source
    finally:
        source.close()


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings as one line, without the place in the source that they come from."""
    with warnings.catch_warnings():
        warnings.simplefilter("once", UserWarning)
        warnings.showwarning = lambda message, *rest, **more: typer.echo(f"warning: {message}", err=True)
        yield
