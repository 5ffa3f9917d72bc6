"""What operators ask: is it alive, is it ready, what does it serve, how is it doing.

/health tells of faults that a restart may mend; /ready tells whether to send requests now.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

import inlay
from inlay.api.dialects.openai import describe_model
from inlay.api.openapi import describe_api, render_docs
from inlay.api.replies import JSONReply, error_reply
from inlay.cache.tiers import Cache
from inlay.corpus.search.batcher import SearchBatcher
from inlay.errors import UnknownModel
from inlay.telemetry.metrics import Metrics
from inlay.types import Worker

PROBES = frozenset({"/health", "/ready"})
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True)
class Ops:
    """The operators' routes."""

    workers: Mapping[str, Worker]
    cache: Cache
    corpora: Mapping[str, SearchBatcher]
    metrics: Metrics
    limits: Mapping[str, Any]
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

    async def health(self, request: Request) -> Response:
        return _status("ok", "unhealthy", self.why_unhealthy())

    async def ready(self, request: Request) -> Response:
        return _status("ready", "not ready", self.why_not_ready())

    async def prometheus(self, request: Request) -> Response:
        return Response(self.metrics.render(), media_type=PROMETHEUS)

    async def models(self, request: Request) -> Response:
        rows = [describe_model(worker.spec, int(self.started)) for worker in self.workers.values()]
        return JSONReply({"object": "list", "data": rows})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.workers:
            served = ", ".join(self.workers)
            return error_reply(UnknownModel(f"model {name!r} is not served here; these are: {served}"))
        return JSONReply(describe_model(self.workers[name].spec, int(self.started)))

    async def info(self, request: Request) -> Response:
        models = [describe_model(worker.spec, int(self.started)) for worker in self.workers.values()]
        return JSONReply(
            {
                "name": "inlay",
                "version": inlay.__version__,
                "uptime_seconds": round(time.time() - self.started, 1),
                "models": models,
                "cache": [{"tier": name, **numbers} for name, numbers in self.cache.numbers()],
                "corpora": [_describe_corpus(name, batcher) for name, batcher in self.corpora.items()],
                "limits": self.limits,
            }
        )

    async def openapi(self, request: Request) -> Response:
        return JSONReply(describe_api())

    async def docs(self, request: Request) -> Response:
        return HTMLResponse(render_docs(describe_api()))


def _describe_corpus(name: str, batcher: SearchBatcher) -> dict[str, Any]:
    corpus, index = batcher.searcher.corpus, batcher.searcher.index
    return {
        "name": name,
        "rows": corpus.num_rows,
        "model": corpus.recipe.model,
        "fingerprint": corpus.recipe.fingerprint,
        "dtype": corpus.recipe.dtype,
        "index": None if index is None else {"kind": index.info.kind, "recall_at_10": index.info.recall_at_10},
    }


def _status(good: str, bad: str, reason: str | None) -> JSONReply:
    if reason is None:
        return JSONReply({"status": good})
    return JSONReply({"status": bad, "reason": reason}, status_code=503)
