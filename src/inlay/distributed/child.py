"""A process that this one starts, and talks to over a socket that both inherit.

In: the module to run, and the message that says what to be. Out: what it tells, and how it ended. Closing its socket
asks it to end.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from threading import Lock
from typing import NamedTuple

from inlay.distributed.connection import Connection, ConnectionLost
from inlay.distributed.messages import AnyMessage, Ask, NotStarted, Started, Told
from inlay.types import Failure

_ENDING_SECONDS = 5.0  # for a process to end once its socket is closed


class _Question(NamedTuple):
    """What was asked, for all who want to know meanwhile."""

    asked_at: float
    answer: Future[Told | None]


class Child:
    """One process. It ends when this one does."""

    def __init__(self, module: str, name: str, start: AnyMessage, descriptors: Sequence[int] = ()) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", module, name, str(theirs.fileno())]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(), *descriptors)
            )
        self._connection = Connection(ours, name)
        self._has_started = False
        self._asking = Lock()
        self._question: _Question | None = None  # that has no answer yet
        self._send(start)

    def started(self) -> bool | Failure:
        """Wait until it serves: True. Why it cannot, or False when it has ended without a word."""
        message = self._connection.receive()
        if isinstance(message, NotStarted):
            return message.failure
        self._has_started = isinstance(message, Started)
        return self._has_started

    def ended(self) -> str:
        """Wait until it has ended, however it does; what its end was."""
        while (message := self._connection.receive()) is not None:
            if isinstance(message, Told):
                self._note(message)
        self._note(None)
        try:
            status = self._process.wait(_ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._connection.close()
        return f"signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"status {status}"

    def ask(self, timeout: float) -> Told | None:
        """How it is; None where it does not say within the time (seconds), or has not started yet."""
        if not self._has_started:
            return None
        with self._asking:
            if (question := self._question) is None:
                question = self._question = _Question(time.monotonic(), Future())
                self._send(Ask())
        try:
            return question.answer.result(max(question.asked_at + timeout - time.monotonic(), 0))
        except TimeoutError:
            return None

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        """Ask for an end in good order, by SIGTERM."""
        self._process.terminate()

    def close(self) -> None:
        """Have it end at once; `ended` returns when it has. While it starts it listens to nothing, and has nothing."""
        self._connection.shutdown()
        if not self._has_started:
            self._process.kill()

    def _note(self, told: Told | None) -> None:
        with self._asking:
            question, self._question = self._question, None
        if question is not None:
            question.answer.set_result(told)

    def _send(self, message: AnyMessage) -> None:
        with suppress(ConnectionLost):  # `ended` says so
            self._connection.send(message)
