"""From the model that a request names to the worker that serves it.

In: a request. Out: its worker, and the request with the prompt that the name may have carried (`name:prompt`). A name
may be another one's alias.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from inlay.errors import ConfigError, InvalidInput, NotReady, UnknownModel, WorkerDead, WrongTask, shorten
from inlay.requests import DecodeRequest, EmbedRequest, PairsRequest, RankRequest, Rights, TokenizeRequest
from inlay.types import Task, Worker

Q = TypeVar("Q", EmbedRequest, RankRequest, PairsRequest)

_OTHERWISE = {
    Task.EMBED: "gives vectors and ranks nothing: name a reranker, and start the server with one if there is none",
    Task.RANK: "is a reranker and gives no vectors: send it to /v1/rerank, or name an embedding model",
}


def parse_aliases(given: Sequence[str], served: Collection[str]) -> dict[str, str]:
    """Names by which models are served, too, from NAME=MODEL."""
    aliases: dict[str, str] = {}
    for text in given:
        name, equals, model = text.partition("=")
        if not (name and equals and model):
            raise ConfigError(f"--alias {text}: write NAME=MODEL, such as text-embedding-3-small=demo")
        if model not in served:
            raise ConfigError(f"--alias {text}: {model!r} is not served; these are: {', '.join(served)}")
        if name in served or name in aliases:
            raise ConfigError(f"--alias {text}: {name!r} is a name already")
        aliases[name] = model
    return aliases


class Router:
    """The models that are served, each with its worker."""

    def __init__(self, workers: MutableMapping[str, Worker], aliases: Mapping[str, str] | None = None) -> None:
        self.workers = workers
        self._aliases = aliases or {}
        self._before: list[tuple[str, Worker]] = []  # that were replaced, and finish what they have begun

    def switch(self, workers: Mapping[str, Worker]) -> dict[str, Worker]:
        """From now on these serve their names. Those before still serve whoever expects their fingerprint."""
        before = {name: self.workers[name] for name in workers}
        self._before += before.items()
        self.workers.update(workers)
        return before

    def forget(self, workers: Mapping[str, Worker]) -> None:
        """They serve nobody any more."""
        self._before = [one for one in self._before if one not in [*workers.items()]]

    def route(self, request: EmbedRequest) -> tuple[Worker, EmbedRequest]:
        """The worker of a model's name; None means the first that embeds. It is loaded, or this raises."""
        name, request = self.resolve(request)
        return self._checked(self._worker_of(name, request.options.expect_fingerprint), Task.EMBED), request

    def ranker(self, name: str | None, fingerprint: str | None = None) -> Worker:
        """The worker of a reranker's name; None means the first."""
        return self._checked(self._worker_of(self._named(name, Task.RANK), fingerprint), Task.RANK)

    def _worker_of(self, name: str, fingerprint: str | None) -> Worker:
        """The one that serves a name, or one before it that is still there, where its fingerprint is expected."""
        worker = self.workers[name]
        if self._before and fingerprint not in (None, worker.spec.fingerprint):
            expected = (name, fingerprint)
            return next((one for key, one in self._before if (key, one.spec.fingerprint) == expected), worker)
        return worker

    def any(self, name: str | None, preferred: Task = Task.EMBED) -> Worker:
        """The worker of a model's name, whatever it does; None means the first that does what is preferred."""
        worker = self.workers[self._named(name, preferred)]
        return self._checked(worker, worker.spec.task)

    def fingerprint_of(self, name: str) -> str:
        """Of the model that is served by a name; "" where there is none yet."""
        worker = self.workers.get(name)
        return "" if worker is None else worker.spec.fingerprint

    def tokenizing(self, request: TokenizeRequest | DecodeRequest) -> Worker:
        """The worker whose tokens are meant; None means the first that embeds."""
        name = self._named(request.model, Task.EMBED, request.rights)
        if request.rights is not None:
            request.rights.check_model(name)
        return self.any(name)

    def resolve(self, request: Q) -> tuple[str, Q]:
        """The served name of the model that a request means, and the request without what its name said beside."""
        if isinstance(request, EmbedRequest):
            name, request = self._resolve(request)
        else:
            name = self._named(request.model, Task.RANK, request.rights)
        if request.rights is not None:
            request.rights.check_model(name)
        return name, request

    def _named(self, name: str | None, preferred: Task, rights: Rights | None = None) -> str:
        name = self._first(preferred, rights) if name is None else self._aliases.get(name, name)
        if name not in self.workers:
            raise self._unknown(name)
        return name

    def _first(self, task: Task, rights: Rights | None, outputs: Collection[str] = ()) -> str:
        """The first model that does something; of several one that may be used, and gives all that is asked for."""
        names = [name for name, worker in self.workers.items() if worker.spec.task is task]
        names = [name for name in names if rights is None or rights.may_use(name)] or names
        able = (name for name in names if set(outputs) <= set(self.workers[name].spec.outputs))
        return next(able, next(iter([*names, *self.workers])))

    def _checked(self, worker: Worker, task: Task) -> Worker:
        spec = worker.spec
        if spec.task is not task:
            raise WrongTask(f"model {spec.name!r} {_OTHERWISE[spec.task]}", param="model")
        if not worker.spec.fingerprint:  # without it there is no key, and without a key no answer
            failure = worker.health()
            if failure is not None:
                raise WorkerDead(f"model {worker.spec.name!r} is not served: {failure}")
            raise NotReady(f"model {worker.spec.name!r} is still loading: try again", retry_after=1.0)
        return worker

    def _resolve(self, request: EmbedRequest) -> tuple[str, EmbedRequest]:
        name = request.model
        if name is None:
            name = self._first(Task.EMBED, request.rights, request.options.outputs)
        name = self._aliases.get(name, name)
        if name in self.workers:
            return name, request
        base, _, prompt = name.rpartition(":")
        base = self._aliases.get(base, base)
        if base in self.workers:
            if request.options.prompt_name not in (None, prompt):
                raise InvalidInput(
                    f"the model's name asks for prompt {prompt!r} and prompt_name for "
                    f"{request.options.prompt_name!r}: send one of them",
                    param="prompt_name",
                )
            return base, replace(request, options=replace(request.options, prompt_name=prompt))
        raise self._unknown(name)

    def _unknown(self, name: str) -> UnknownModel:
        served = ", ".join([*self.workers, *self._aliases])
        return UnknownModel(f"model {shorten(name)!r} is not served here; these are: {served}", param="model")
