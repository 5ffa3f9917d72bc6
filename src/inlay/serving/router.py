"""From the model that a request names to the worker that serves it.

In: a request. Out: its worker, and the request with the prompt that the name may have carried (`name:prompt`).
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from inlay.errors import InvalidInput, NotReady, UnknownModel, WorkerDead, shorten
from inlay.types import EmbedRequest, Worker


class Router:
    """The models that are served, each with its worker."""

    def __init__(self, workers: Mapping[str, Worker]) -> None:
        self.workers = workers

    def route(self, request: EmbedRequest) -> tuple[Worker, EmbedRequest]:
        """The worker of a model's name; None means the first model. It is loaded, or this raises."""
        worker, request = self._resolve(request)
        if not worker.spec.fingerprint:  # without it there is no key, and without a key no answer
            failure = worker.health()
            if failure is not None:
                raise WorkerDead(f"model {worker.spec.name!r} is not served: {failure}")
            raise NotReady(f"model {worker.spec.name!r} is still loading: try again", retry_after=1.0)
        return worker, request

    def _resolve(self, request: EmbedRequest) -> tuple[Worker, EmbedRequest]:
        name = next(iter(self.workers)) if request.model is None else request.model
        if name in self.workers:
            return self.workers[name], request
        base, _, prompt = name.rpartition(":")
        if base in self.workers:
            if request.options.prompt_name not in (None, prompt):
                raise InvalidInput(
                    f"the model's name asks for prompt {prompt!r} and prompt_name for "
                    f"{request.options.prompt_name!r}: send one of them",
                    param="prompt_name",
                )
            return self.workers[base], replace(request, options=replace(request.options, prompt_name=prompt))
        served = ", ".join(self.workers)
        raise UnknownModel(f"model {shorten(name)!r} is not served here; these are: {served}", param="model")
