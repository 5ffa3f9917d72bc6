"""Puts another model in the place of one that is served, without a request that is refused or answered by both.

In: the name of a model that is served, and the spec of the next. The next is loaded beside it; once it serves, the
name is its own from one request to the next; what the one before has begun it finishes, and then it is ended. A next
one that cannot be loaded changes nothing. Knows neither HTTP nor how workers are made. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from inlay.errors import Cancelled, Conflict, InlayError, UnknownModel, shorten
from inlay.serving.daemon_call import call_in_daemon
from inlay.serving.router import Router
from inlay.serving.uses import Uses
from inlay.telemetry.logs import get_logger
from inlay.types import ModelSpec, Worker

log = get_logger("service")

MOST_KEPT = 16  # replacements that are told of


class Loader(Protocol):
    """Makes workers, and ends them."""

    def start(self, spec: ModelSpec) -> Mapping[str, Worker]:
        """The workers of a model and its adapters, by name; they have begun to load."""
        ...

    def end(self, workers: Mapping[str, Worker]) -> None:
        """End workers that nobody uses any more. Blocks until they have ended, or would take too long."""
        ...


class State(StrEnum):
    LOADING = "loading"  # the one before serves
    DRAINING = "draining"  # the next one serves; the one before finishes what it has begun
    DONE = "done"
    FAILED = "failed"  # the one before serves


@dataclass(slots=True)
class Replacement:
    """How far one has come; the last sixteen are told of."""

    number: int
    name: str
    model: str  # where it was read from, as it was asked for
    fingerprint_before: str
    fingerprint: str = ""  # of the next, once it is loaded
    state: State = State.LOADING
    reason: str | None = None  # why it failed
    began: float = field(default_factory=time.time)
    ended: float | None = None


class Replacer:
    """The replacements of a server; the router's workers are those that all its rooms look at."""

    def __init__(
        self,
        router: Router,
        uses: Uses,
        loader: Loader,
        patience: float,
        on_switch: Callable[[], None] = lambda: None,
    ) -> None:
        self.replacements: deque[Replacement] = deque(maxlen=MOST_KEPT)  # the last one first
        self._router = router
        self._uses = uses
        self._loader = loader
        self._patience = patience  # seconds for the one before to finish
        self._on_switch = on_switch
        self._beside: dict[int, Mapping[str, Worker]] = {}  # that load or finish, by replacement
        self._given_up: dict[int, asyncio.Event] = {}  # of those that load: nobody wants the next one any more
        self._tasks: set[asyncio.Task[None]] = set()
        self._num_begun = 0

    def begin(self, spec: ModelSpec, model: str) -> Replacement:
        """Begin to put a model in the place of the one with its name; `Conflict` where it cannot be done now."""
        before = self._router.workers[spec.name].spec
        if any(one.name == spec.name and one.state is State.LOADING for one in self.replacements):
            raise Conflict(
                f"model {spec.name!r} is being replaced already: wait until GET /admin/models says done, or give it up "
                f"with DELETE /admin/models/{spec.name}"
            )
        if before.adapter is not None or before.adapters:
            raise Conflict(f"model {spec.name!r} has adapters, or is one: start another server with the next one")
        if not before.fingerprint:
            raise Conflict(f"model {spec.name!r} is still loading: try again when it is served")
        if spec.task is not before.task:
            raise Conflict(f"model {spec.name!r} is for {before.task}, and the next one is for {spec.task}")
        self._num_begun += 1
        replacement = Replacement(self._num_begun, spec.name, model, before.fingerprint)
        self.replacements.appendleft(replacement)
        task = asyncio.get_running_loop().create_task(self._run(replacement, spec))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return replacement

    def cancel(self, name: str) -> Replacement:
        """Give up the one that is loaded for a name; `UnknownModel` where there is none."""
        for replacement in self.replacements:
            if replacement.name == name and replacement.number in self._given_up:
                self._given_up[replacement.number].set()
                return replacement
        raise UnknownModel(f"nothing is loaded to take the place of {shorten(name)!r}: GET /admin/models tells what is")

    def close(self) -> dict[str, Worker]:
        """Go no further. The workers that are left beside those that serve."""
        for task in self._tasks:
            task.cancel()
        beside = [(number, one) for number, workers in self._beside.items() for one in workers.items()]
        return {f"{name} (replacement {number})": worker for number, (name, worker) in beside}

    async def _run(self, replacement: Replacement, spec: ModelSpec) -> None:
        log.info("a model is loaded beside the one that is served", model=spec.name, path=replacement.model)
        given_up = self._given_up[replacement.number] = asyncio.Event()
        try:
            workers = await self._load(replacement, spec, given_up)
        except InlayError as error:
            replacement.state, replacement.reason, replacement.ended = State.FAILED, error.message, time.time()
            log.warning("a model was not replaced", model=spec.name, reason=error.message)
            return
        finally:
            del self._given_up[replacement.number]
        before = self._router.switch(workers)
        self._beside[replacement.number] = before
        replacement.state = State.DRAINING
        log.info("a model was replaced", model=spec.name, fingerprint=replacement.fingerprint)
        self._on_switch()
        await self._drain(before)
        self._router.forget(before)
        await self._end(replacement, before)
        replacement.state, replacement.ended = State.DONE, time.time()

    async def _load(self, replacement: Replacement, spec: ModelSpec, given_up: asyncio.Event) -> Mapping[str, Worker]:
        """The workers, once they serve; raises why they do not."""
        workers = await call_in_daemon(lambda: self._loader.start(spec))
        self._beside[replacement.number] = workers
        loading = asyncio.ensure_future(call_in_daemon(workers[spec.name].wait_loaded))
        waiting = asyncio.ensure_future(given_up.wait())
        try:
            await asyncio.wait({loading, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if not loading.done():
                raise Cancelled("was given up")
            loading.result()
        except InlayError:
            await self._end(replacement, workers)
            raise
        finally:
            loading.cancel()
            waiting.cancel()
        replacement.fingerprint = workers[spec.name].spec.fingerprint
        return workers

    async def _drain(self, workers: Mapping[str, Worker]) -> None:
        """Returns when no request uses them, or after the time that a request has."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await self._uses.wait_for_none(workers.values())

    async def _end(self, replacement: Replacement, workers: Mapping[str, Worker]) -> None:
        await call_in_daemon(lambda: self._loader.end(workers))
        del self._beside[replacement.number]
