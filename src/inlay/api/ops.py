"""What operators ask: is it alive, is it ready, what does it serve, how is it doing.

/health tells of faults that a restart may mend; /ready tells whether to send requests now.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from msgspec.structs import replace

import inlay
from inlay.api.exchange import Exchange, header
from inlay.api.models import ModelRoutes
from inlay.api.replies import Reply
from inlay.cache.tiers import Cache
from inlay.corpus.search.batcher import SearchBatcher
from inlay.errors import InlayError
from inlay.telemetry.families import Family, render_families
from inlay.telemetry.metrics import Metrics
from inlay.types import Worker

PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"
FRONT_END = "front-end"  # the name of this process, among several


class Processes(Protocol):
    """The processes beside this one."""

    @property
    def failure(self) -> InlayError | None:
        """Why the server cannot go on; None while it can."""
        ...

    def numbers(self) -> dict[str, list[Family]]:
        """What each counts, by its name. Blocks for moments."""
        ...


@dataclass(slots=True)
class Ops:
    """The operators' routes."""

    workers: Mapping[str, Worker]
    cache: Cache
    corpora: Mapping[str, SearchBatcher]
    metrics: Metrics
    models: ModelRoutes
    limits: Mapping[str, Any]
    more_info: Callable[[], Mapping[str, Any]] = dict  # for clients of another server
    processes: Processes | None = None  # the engines', where they have some of their own
    numbers_port: int | None = None  # where the numbers of all front ends are, of which this is one
    is_draining: bool = False
    started: float = field(default_factory=time.time)

    def why_unhealthy(self) -> str | None:
        for name, worker in self.workers.items():
            if (reason := worker.health()) is not None:
                return f"{name}: {reason}"
        return None

    def why_not_ready(self) -> str | None:
        if self.is_draining:
            return "shutting down"
        for name, worker in self.workers.items():
            if not worker.is_ready:
                return f"{name}: {worker.health() or 'loading'}"
        return self.why_unhealthy()

    async def health(self, exchange: Exchange) -> Reply:
        return status_reply("ok", "unhealthy", self.why_unhealthy())

    async def ready(self, exchange: Exchange) -> Reply:
        return status_reply("ready", "not ready", self.why_not_ready())

    async def prometheus(self, exchange: Exchange) -> Reply:
        if self.numbers_port is not None:
            return _elsewhere(exchange, self.numbers_port)
        if self.processes is None:
            return Reply(self.metrics.render(), content_type=PROMETHEUS)
        others = await asyncio.to_thread(self.processes.numbers)
        return Reply(render_families({FRONT_END: self.metrics.families(), **others}), content_type=PROMETHEUS)

    async def info(self, exchange: Exchange) -> Reply:
        return Reply.of_json(
            {
                **self.more_info(),
                "name": "inlay",
                "version": inlay.__version__,
                "uptime_seconds": round(time.time() - self.started, 1),
                "models": self.models.describe_all(),
                "cache": [{"tier": name, **numbers} for name, numbers in self.cache.numbers()],
                "corpora": [_describe_corpus(name, batcher) for name, batcher in self.corpora.items()],
                "limits": self.limits,
            }
        )


def _elsewhere(exchange: Exchange, port: int) -> Reply:
    """Whoever scrapes one front end is sent to where all are told of."""
    host = urlsplit(f"//{header(exchange.scope, b'host') or 'localhost'}").hostname
    name = f"[{host}]" if host and ":" in host else host
    url = f"http://{name}:{port}/metrics"
    told = {"status": "elsewhere", "reason": f"the numbers of all front ends are at {url}"}
    reply = Reply.of_json(told, 307)
    return replace(reply, headers=[(b"location", url.encode())])


def _describe_corpus(name: str, batcher: SearchBatcher) -> dict[str, Any]:
    corpus, index = batcher.searcher.corpus, batcher.searcher.index
    return {
        "name": name,
        "rows": corpus.num_rows,
        "broken_rows": len(batcher.searcher.broken_rows),
        "model": corpus.recipe.model,
        "fingerprint": corpus.recipe.fingerprint,
        "dtype": corpus.recipe.dtype,
        "store_dtype": corpus.recipe.store_dtype,
        "index": None if index is None else {"kind": index.info.kind, "recall_at_10": index.info.recall_at_10},
    }


def status_reply(good: str, bad: str, reason: str | None) -> Reply:
    """All is well, or the reason why not."""
    if reason is None:
        return Reply.of_json({"status": good})
    return Reply.of_json({"status": bad, "reason": reason}, 503)
