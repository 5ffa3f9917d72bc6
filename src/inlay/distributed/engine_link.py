"""A front end's way to one engine process: work goes there, answers come back, and its end is seen at once.

In: work, and who takes its answers. Out: answers, exactly one for each piece of work. When the engine ends, what it had
is refused within moments; the link waits for the engine that comes in its place. Knows nothing of who starts engines.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from threading import Event, Lock, Thread

from inlay.distributed.connection import Connection, ConnectionLost
from inlay.distributed.frames import FrameError
from inlay.distributed.loop_reader import read_on_loop
from inlay.distributed.messages import Answers, AnyMessage, Loaded, ModelState, NotLoaded, State, Submit
from inlay.distributed.pulse import Pulse
from inlay.engine.unanswered import hand_over
from inlay.errors import InlayError, NotReady, ShuttingDown, TooLarge, WorkerDead
from inlay.telemetry.logs import get_logger
from inlay.types import Answer, Deliver, Failure, ModelSpec, Work

log = get_logger("processes")

RECONNECT_SECONDS = 0.1
SHORTEST_RETRY = 1.0  # seconds
NOT_READY = ModelState(is_ready=False, queued_tokens=0, tokens_per_second=0.0, device_bytes=0, health=None)


class EngineLink:
    """One engine, by the address of its socket. Connects at once, and again for as long as it is open."""

    def __init__(self, address: str, name: str, models: Iterable[str]) -> None:
        self.name = name
        self.specs: dict[str, ModelSpec] = {}  # of the models that have been served
        self._address = address
        self._connection: Connection | None = None
        self._states: dict[str, ModelState] = {}
        self.num_heard = 0  # messages that came from it
        self._lost = time.monotonic()  # since when it does not serve
        self._start_seconds = SHORTEST_RETRY  # how long the last start took
        self._failures: dict[str, InlayError] = {}
        self._loaded = {model: Event() for model in models}  # is it known whether it is served?
        self._delivers: dict[int, Deliver] = {}  # of all work that has no answer yet
        self._lock = Lock()
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None  # from which work comes, and to which answers go
        self._thread = Thread(target=self._run, name="inlay-link", daemon=True)
        self._thread.start()

    def has_unread(self) -> bool:
        """Has the engine said something, or ended, that is not known here yet?"""
        with self._lock:
            return self._connection is not None and self._connection.has_unread()

    def why_unwell(self) -> str | None:
        """What the engine says is wrong with its models."""
        reasons = (state.health for state in self._states.values())
        return next((reason for reason in reasons if reason is not None), None)

    def state_of(self, model: str) -> ModelState:
        """What the engine told last."""
        return self._states.get(model, NOT_READY)

    def failure_of(self, model: str) -> InlayError | None:
        """Why a model cannot be served at all."""
        return self._failures.get(model)

    def wait_loaded(self, model: str) -> None:
        """Block until a model is served; raises why it cannot be."""
        self._loaded[model].wait()
        if (failure := self._failures.get(model)) is not None:
            raise failure

    def give_up(self, error: InlayError) -> None:
        """No engine will come any more."""
        for model in self._loaded:
            self._fail(model, error)

    def submit_many(self, model: str, works: list[Work], deliver: Deliver) -> None:
        """Send work to the engine; what cannot be sent is refused at once."""
        if self._loop is None:
            self._loop = _running_loop()
        with self._lock:
            connection = self._connection if self.state_of(model).is_ready else None
            self._delivers.update((work.id, deliver) for work in works)
        try:
            if connection is None:
                raise ConnectionLost(self.name)
            connection.send(Submit(model, works))
        except ConnectionLost:
            self._refuse([work.id for work in works], self._why_not_served(model))
        except FrameError as error:
            self._refuse([work.id for work in works], TooLarge(f"{error}: send it in parts"))

    def send(self, message: AnyMessage) -> None:
        """Send what needs no answer."""
        connection = self._connection
        if connection is not None:
            with suppress(ConnectionLost):
                connection.send(message)

    def close(self) -> None:
        """What has no answer yet is refused."""
        self._is_closed = True
        if (connection := self._connection) is not None:
            connection.shutdown()
        self._refuse_all(self._why_ended())

    def _run(self) -> None:
        while not self._is_closed:
            connection = self._connect()
            if connection is None:
                time.sleep(RECONNECT_SECONDS)
                continue
            pulse = Pulse(self._address, connection.shutdown)
            self._read(connection)
            self._lose(connection)
            pulse.close()

    def _read(self, connection: Connection) -> None:
        """Take what comes until the end: on this thread, and once work has come from an event loop on that."""
        while (message := connection.receive()) is not None:
            self._take(message)
            if (loop := self._loop) is not None:
                if read_on_loop(loop, connection, self._take):
                    return
                self._loop = None  # it is closed: perhaps another one comes

    def _connect(self) -> Connection | None:
        try:
            connecting = socket.socket(socket.AF_UNIX)
            try:
                connecting.connect(self._address)
            except OSError:
                connecting.close()
                raise
        except OSError as error:
            log.debug("no connection to an engine", engine=self.name, error=repr(error))
            return None
        with self._lock:
            self._connection = Connection(connecting, self.name)
            if self._is_closed:
                self._connection.shutdown()
        return self._connection

    def _take(self, message: AnyMessage) -> None:
        self.num_heard += 1
        if isinstance(message, Answers):
            self._answer(message.answers)
        elif isinstance(message, State):
            self._note(message)
        elif isinstance(message, Loaded):
            self.specs[message.model] = message.spec
        elif isinstance(message, NotLoaded) and message.model not in self.specs:
            self._fail(message.model, message.failure.error())

    def _note(self, state: State) -> None:
        was_ready, is_ready = _are_ready(self._states), _are_ready(state.models)
        self._states = state.models
        if is_ready and not was_ready:
            self._start_seconds = max(time.monotonic() - self._lost, SHORTEST_RETRY)
        for model, one in state.models.items():
            if one.is_ready:
                self._loaded[model].set()

    def _answer(self, answers: Iterable[Answer]) -> None:
        receivers: dict[Deliver, list[Answer]] = {}
        with self._lock:
            for answer in answers:
                deliver = self._delivers.pop(answer.id, None)
                if deliver is not None:
                    receivers.setdefault(deliver, []).append(answer)
        for deliver, own in receivers.items():
            hand_over(deliver, own)

    def _lose(self, connection: Connection) -> None:
        """The engine has ended: nothing that it had will be answered."""
        with self._lock:
            self._connection = None
            self._states = {}
            self._lost = time.monotonic()
            num_lost = len(self._delivers)
        self._refuse_all(self._why_ended())
        connection.close()
        if not self._is_closed:
            log.warning("an engine is gone, with the work that it had", engine=self.name, lost=num_lost)

    def _why_not_served(self, model: str) -> InlayError:
        if (failure := self._failures.get(model)) is not None:
            return WorkerDead(f"model {model!r} is not served: {failure.message}")
        if model not in self.specs:
            return NotReady(f"model {model!r} is still loading: try again", retry_after=1.0)
        return self._why_ended()

    def _why_ended(self) -> InlayError:
        """The time to come back is what the last start took, less what has passed of this one."""
        if self._is_closed:
            return ShuttingDown("the server is shutting down: try another one", retry_after=1.0)
        remaining = max(self._start_seconds - (time.monotonic() - self._lost), SHORTEST_RETRY)
        return WorkerDead("the engine has ended and is started again: try again", retry_after=remaining)

    def _refuse(self, ids: list[int], error: InlayError) -> None:
        """Refuse work; what has its answer already gets no other."""
        failure = Failure.of(error)
        self._answer([Answer(number, failure=failure) for number in ids])

    def _refuse_all(self, error: InlayError) -> None:
        with self._lock:
            ids = list(self._delivers)
        self._refuse(ids, error)

    def _fail(self, model: str, error: InlayError) -> None:
        self._failures[model] = error
        self._loaded[model].set()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _are_ready(states: Mapping[str, ModelState]) -> bool:
    return bool(states) and all(one.is_ready for one in states.values())
