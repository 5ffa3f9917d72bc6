"""The models of a server as Ollama's clients list them: `/api/tags`, `/api/ps`, `/api/version` and `/api/show`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

import inlay
from inlay.api.dialects.ollama import LATEST, OllamaError, render_error
from inlay.api.exchange import Exchange
from inlay.api.json_route import Body, Form, Gate, JSONRoute
from inlay.api.replies import Reply
from inlay.api.routes import GET, POST, Bodies, Route
from inlay.errors import InvalidInput
from inlay.serving.router import Router
from inlay.types import ModelSpec, Task, Worker


class OllamaShowRequest(Struct):
    """The body of `POST /api/show`; `name` is the older word for `model`."""

    model: str | None = None
    name: str | None = None


class OllamaDetails(Struct):
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class OllamaModel(Struct):
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]


class OllamaModels:
    """What is served, in Ollama's words."""

    def __init__(self, workers: Mapping[str, Worker], router: Router) -> None:
        self._workers = workers
        self._router = router
        self._since = datetime.fromtimestamp(time.time(), UTC).isoformat()

    def routes(self, gate: Gate) -> Iterator[Route]:
        """Of these, with the one that has a body."""
        for path, told, answer in (
            ("/api/tags", "The models (Ollama)", self._tags),
            ("/api/ps", "The models that are loaded (Ollama)", self._tags),
            ("/api/version", "Version (Ollama)", self._version),
        ):
            yield Route(GET, path, told, answer, render_error)
        show = JSONRoute(gate, Form(OllamaShowRequest, self._show)).answer
        bodies = (Bodies(OllamaShowRequest, OllamaModel, OllamaError),)
        yield Route(POST, "/api/show", "One model (Ollama)", show, render_error, bodies=bodies)

    async def _tags(self, exchange: Exchange) -> Reply:
        return Reply.of_json({"models": [self._row_of(worker.spec) for worker in self._workers.values()]})

    async def _version(self, exchange: Exchange) -> Reply:
        return Reply.of_json({"version": inlay.__version__})

    async def _show(self, call: OllamaShowRequest, body: Body | None, exchange: Exchange, deadline: float) -> Reply:
        name = call.model or call.name
        if not name:
            raise InvalidInput("model is missing: name one", param="model")
        spec = self._router.any(name.removesuffix(LATEST)).spec
        about = {"general.architecture": spec.family, f"{spec.family}.context_length": spec.max_tokens}
        about[f"{spec.family}.embedding_length"] = spec.width
        capabilities = ["embedding"] if spec.task is Task.EMBED else []
        return Reply.of_json({"details": _details_of(spec), "model_info": about, "capabilities": capabilities})

    def _row_of(self, spec: ModelSpec) -> dict[str, Any]:
        name = spec.name + LATEST
        digest = hashlib.sha256(spec.fingerprint.encode()).hexdigest()
        row = {"name": name, "model": name, "modified_at": self._since, "size": 0, "digest": digest}
        return {**row, "details": _details_of(spec)}


def _details_of(spec: ModelSpec) -> dict[str, Any]:
    return asdict(OllamaDetails("safetensors", spec.family, [spec.family], "", spec.dtype))
