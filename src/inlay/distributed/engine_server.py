"""An engine's side of its socket: takes work from front ends, and sends them answers and how its models are doing.

In: connections, each with messages of a front end. Out: messages. A front end that goes leaves nothing behind: its work
is cancelled. One that sends what is no message loses its connection.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from threading import Event, Lock, Thread

from inlay.distributed.connection import Connection, ConnectionLost
from inlay.distributed.frames import FrameError
from inlay.distributed.messages import (
    Answers,
    AnyMessage,
    Cancel,
    Loaded,
    ModelState,
    NotLoaded,
    Promote,
    State,
    Submit,
)
from inlay.distributed.shared_work import SharedWork
from inlay.errors import EngineError, InlayError
from inlay.telemetry.logs import get_logger
from inlay.types import Answer, Deliver, Failure, Worker

log = get_logger("engine")

BEAT_SECONDS = 0.25  # between two messages that tell how the models are doing


class EngineServer:
    """Serves workers to whoever connects."""

    def __init__(self, listener: socket.socket, workers: Mapping[str, Worker]) -> None:
        self._listener = listener
        self._workers = workers
        self._shared = {name: SharedWork(worker) for name, worker in workers.items()}
        self._outcomes: dict[str, Loaded | NotLoaded] = {}
        self._clients: set[Connection] = set()
        self._lock = Lock()
        self._is_closed = Event()

    def start(self) -> None:
        """Serve on threads of its own."""
        for serve in (self._accept, self._beat):
            Thread(target=serve, name="inlay-serve", daemon=True).start()

    def close(self) -> None:
        """Serve nobody any more. The listener is its owner's to close."""
        self._is_closed.set()
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            client.shutdown()

    def wait_loaded(self) -> None:
        """Returns when all models are served and this was told; raises what kept one from it."""
        for name, worker in self._workers.items():
            try:
                worker.wait_loaded()
            except InlayError as error:
                self._note(NotLoaded(name, Failure.of(error)))
                raise
            self._note(Loaded(name, worker.spec))

    def _note(self, outcome: Loaded | NotLoaded) -> None:
        with self._lock:
            self._outcomes[outcome.model] = outcome
            self._tell(self._clients, outcome)

    def _tell(self, clients: Iterable[Connection], *outcomes: Loaded | NotLoaded) -> None:
        """What became of models, and then how all are doing. Under the lock: none is ready before it was told so."""
        state = self._state()
        for client in clients:
            for message in (*outcomes, state):
                _send(client, message)

    def _state(self) -> State:
        return State(
            {
                name: ModelState(
                    self._is_ready(name),
                    worker.queued_tokens,
                    worker.stats.tokens_per_second,
                    worker.device_bytes,
                    worker.health(),
                )
                for name, worker in self._workers.items()
            }
        )

    def _is_ready(self, name: str) -> bool:
        """Only once it was told what the model is."""
        return isinstance(self._outcomes.get(name), Loaded) and self._workers[name].is_ready

    def _beat(self) -> None:
        while not self._is_closed.wait(BEAT_SECONDS):
            with self._lock:
                self._tell(self._clients)

    def _accept(self) -> None:
        while not self._is_closed.is_set():
            try:
                self._accept_one()
            except (OSError, RuntimeError) as error:  # no descriptor, no thread: the front end comes again
                log.warning("a front end could not be taken", error=repr(error))
                self._is_closed.wait(BEAT_SECONDS)

    def _accept_one(self) -> None:
        accepted, _ = self._listener.accept()
        if self._is_closed.is_set():
            accepted.close()
            return
        serving = Thread(
            target=self._serve, args=(Connection(accepted, "a front end"),), name="inlay-connection", daemon=True
        )
        try:
            serving.start()
        except RuntimeError:
            accepted.close()
            raise

    def _serve(self, client: Connection) -> None:
        """One front end, until it goes."""

        def deliver(answers: list[Answer]) -> None:
            _send_answers(client, answers)

        try:
            with self._lock:
                self._clients.add(client)
                self._tell([client], *self._outcomes.values())
            while (message := client.receive()) is not None and self._take(message, deliver):
                pass
        finally:
            with self._lock:
                self._clients.discard(client)
            for shared in self._shared.values():
                shared.cancel_all(deliver)
            client.close()

    def _take(self, message: AnyMessage, deliver: Deliver) -> bool:
        """Do what a message asks for; False where it asks for what there is not."""
        if not isinstance(message, Submit | Cancel | Promote) or message.model not in self._shared:
            log.error("what a front end sent is for no engine: its connection is ended", sent=type(message).__name__)
            return False
        shared = self._shared[message.model]
        if isinstance(message, Submit):
            shared.submit_many(message.works, deliver)
        elif isinstance(message, Cancel):
            shared.cancel_many(message.ids, deliver)
        else:
            shared.promote_many(message.ids, message.priority, deliver)
        return True


def _send(client: Connection, message: AnyMessage) -> None:
    with suppress(ConnectionLost):  # whoever receives from it sees that, too
        client.send(message)


def _send_answers(client: Connection, answers: list[Answer]) -> None:
    """In one message, or where that would be too large in two."""
    try:
        _send(client, Answers(answers))
    except FrameError as error:
        if len(answers) == 1:
            failure = Failure.of(EngineError(str(error)))
            _send(client, Answers([Answer(answers[0].id, failure=failure)]))
        else:
            half = len(answers) // 2
            _send_answers(client, answers[:half])
            _send_answers(client, answers[half:])
