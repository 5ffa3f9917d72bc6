"""`GET /v1/models`, in OpenAI's shape: what is served, and all that a client needs to know of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from inlay.api.exchange import Exchange
from inlay.api.replies import Reply
from inlay.errors import UnknownModel, shorten
from inlay.models.ranking import takes_instructions
from inlay.serving.output_dtypes import OutputDtype, int8_scale
from inlay.types import ModelSpec, Task, Worker


class ModelRoutes:
    """The models of a server."""

    def __init__(self, workers: Mapping[str, Worker], aliases: Mapping[str, str]) -> None:
        self._workers = workers
        self._aliases = aliases
        self._created = int(time.time())

    @property
    def names(self) -> list[str]:
        return [*self._workers]

    async def list_models(self, exchange: Exchange) -> Reply:
        return Reply.of_json({"object": "list", "data": self.describe_all()})

    async def model(self, exchange: Exchange) -> Reply:
        worker = self._workers.get(self._aliases.get(exchange.name, exchange.name))
        if worker is None:
            served = ", ".join([*self._workers, *self._aliases])
            raise UnknownModel(f"model {shorten(exchange.name)!r} is not served here; these are: {served}")
        return Reply.of_json(self._describe(worker.spec))

    def describe_all(self) -> list[dict[str, Any]]:
        return [self._describe(worker.spec) for worker in self._workers.values()]

    def _describe(self, spec: ModelSpec) -> dict[str, Any]:
        aliases = [alias for alias, name in self._aliases.items() if name == spec.name]
        return {**describe_model(spec, self._created, self._parent_of(spec)), "aliases": aliases}

    def _parent_of(self, spec: ModelSpec) -> str | None:
        """By the name that it is served by, where it is."""
        if spec.adapter is None:
            return None
        bases = (name for name, worker in self._workers.items() if spec.name in worker.spec.adapters)
        return next(bases, spec.path.name)


def describe_model(spec: ModelSpec, created: int, parent: str | None) -> dict[str, Any]:
    """One row of `GET /v1/models`; `parent` is the model that an adapter adapts."""
    smallest, largest = spec.matryoshka or (None, None)
    return {
        "id": spec.name,
        "object": "model",
        "created": created,
        "owned_by": "inlay",
        "parent": parent,
        "family": spec.family,
        "task": spec.task,
        "width": spec.width,
        "max_tokens": spec.max_tokens,
        "pooling": spec.pooling,
        "outputs": spec.outputs,
        "output_dtypes": list(OutputDtype) if spec.task is Task.EMBED else [],
        "int8_scale": int8_scale(spec.width) if spec.task is Task.EMBED else None,
        "prompts": dict(spec.prompts),
        "takes_instructions": takes_instructions(spec),
        "instruction_template": spec.instruction_template,
        "default_prompt": spec.default_prompt,
        "matryoshka": None if smallest is None else {"min": smallest, "max": largest},
        "dtype": spec.dtype or None,
        "fingerprint": spec.fingerprint or None,
    }
