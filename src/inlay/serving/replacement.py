"""Puts another model in the place of one that is served, without a request that is refused or answered by both.

In: the name of a model that is served, and the spec of the next. The next is loaded beside it; once it serves, the
name is its own from one request to the next; what the one before has begun it finishes, and then it is ended. A next
one that cannot be loaded changes nothing. Knows neither HTTP nor how workers are made. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Thread
from typing import Protocol, TypeVar

from inlay.errors import Conflict, EngineError, InlayError
from inlay.serving.uses import Uses
from inlay.telemetry.logs import get_logger
from inlay.types import ModelSpec, Worker

log = get_logger("service")

MOST_KEPT = 16  # replacements that are told of
T = TypeVar("T")


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
    """How far one has come."""

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
    """The replacements of a server; `workers` are those that all its rooms look at."""

    def __init__(
        self,
        workers: MutableMapping[str, Worker],
        uses: Uses,
        loader: Loader,
        patience: float,
        on_switch: Callable[[], None] = lambda: None,
    ) -> None:
        self.replacements: deque[Replacement] = deque(maxlen=MOST_KEPT)  # the last one first
        self._workers = workers
        self._uses = uses
        self._loader = loader
        self._patience = patience  # seconds for the one before to finish
        self._on_switch = on_switch
        self._beside: dict[int, Mapping[str, Worker]] = {}  # that load or finish, by replacement
        self._tasks: set[asyncio.Task[None]] = set()
        self._num_begun = 0

    def begin(self, spec: ModelSpec, model: str) -> Replacement:
        """Begin to put a model in the place of the one with its name; `Conflict` where it cannot be done now."""
        before = self._workers[spec.name].spec
        if any(one.name == spec.name and one.state is State.LOADING for one in self.replacements):
            raise Conflict(f"model {spec.name!r} is being replaced already: wait until GET /admin/models says done")
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

    def close(self) -> dict[str, Worker]:
        """Go no further. The workers that are left beside those that serve."""
        for task in self._tasks:
            task.cancel()
        return {f"{name} (beside)": one for workers in self._beside.values() for name, one in workers.items()}

    async def _run(self, replacement: Replacement, spec: ModelSpec) -> None:
        log.info("a model is loaded beside the one that is served", model=spec.name, path=replacement.model)
        try:
            workers = await self._load(replacement, spec)
        except InlayError as error:
            replacement.state, replacement.reason, replacement.ended = State.FAILED, error.message, time.time()
            log.warning("a model was not replaced", model=spec.name, reason=error.message)
            return
        before = {name: self._workers[name] for name in workers}
        self._workers.update(workers)
        self._beside[replacement.number] = before
        replacement.state = State.DRAINING
        log.info("a model was replaced", model=spec.name, fingerprint=replacement.fingerprint)
        self._on_switch()
        await self._drain(before)
        await self._end(replacement, before)
        replacement.state, replacement.ended = State.DONE, time.time()

    async def _load(self, replacement: Replacement, spec: ModelSpec) -> Mapping[str, Worker]:
        """The workers, once they serve; raises why they cannot."""
        workers = await _in_thread(lambda: self._loader.start(spec))
        self._beside[replacement.number] = workers
        try:
            await _in_thread(workers[spec.name].wait_loaded)
        except InlayError:
            await self._end(replacement, workers)
            raise
        replacement.fingerprint = workers[spec.name].spec.fingerprint
        return workers

    async def _drain(self, workers: Mapping[str, Worker]) -> None:
        """Returns when no request uses them, or after the time that a request has."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                await self._uses.wait_for_none(workers.values())

    async def _end(self, replacement: Replacement, workers: Mapping[str, Worker]) -> None:
        await _in_thread(lambda: self._loader.end(workers))
        del self._beside[replacement.number]


async def _in_thread(call: Callable[[], T]) -> T:
    """Like asyncio.to_thread, but that the end of the process does not wait for it; other failures as `EngineError`."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = call()
        except InlayError as error:
            tell(future.set_exception, error)
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            tell(future.set_exception, EngineError(f"the model could not be loaded ({type(error).__name__}: {error})"))
        else:
            tell(future.set_result, result)

    def tell(act: Callable[..., None], value: object) -> None:
        try:
            loop.call_soon_threadsafe(lambda: None if future.done() else act(value))
        except RuntimeError:
            log.debug("a replacement outlived the server")

    Thread(target=run, name="inlay-replacement", daemon=True).start()
    return await future
