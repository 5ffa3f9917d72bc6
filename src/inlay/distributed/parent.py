"""A process's way to the one that started it: it is told what to be, tells how it is, and ends when the other does.

python -m inlay.distributed.MODULE NAME DESCRIPTOR
"""

from __future__ import annotations

import ctypes
import signal
import socket
import sys
from collections.abc import Callable

from inlay.distributed.connection import Connection, ConnectionLost
from inlay.distributed.messages import AnyMessage, Ask, NotStarted, Started, Told
from inlay.errors import EngineError, InlayError
from inlay.telemetry.logs import get_logger
from inlay.types import Failure

log = get_logger("processes")

_PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its parent ends


class Parent:
    """The other end of a `distributed.child.Child`, on the descriptor that this process was given."""

    def __init__(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all: the parent says when to end
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        self._connection = Connection(socket.socket(fileno=int(sys.argv[2])), "the parent")

    def receive(self) -> AnyMessage | None:
        """What comes next; None once the parent has ended."""
        return self._connection.receive()

    def tell_started(self) -> None:
        self._tell(Started())

    def tell_failure_of(self, act: Callable[[], None]) -> bool:
        """Do what this process is for; what goes wrong is told. True when nothing did."""
        try:
            act()
        except InlayError as error:
            self._tell(NotStarted(Failure.of(error)))
            return False
        except Exception as error:
            log.exception("a process could not be started")
            reason = EngineError(f"it could not be started ({type(error).__name__}: {error})")
            self._tell(NotStarted(Failure.of(reason)))
            return False
        return True

    def answer(self, tell: Callable[[], Told]) -> None:
        """Answer what is asked, until the parent ends or wants this process to."""
        while (message := self.receive()) is not None:
            if isinstance(message, Ask):
                self._tell(tell())

    def _tell(self, message: AnyMessage) -> None:
        try:
            self._connection.send(message)
        except ConnectionLost:
            log.debug("the parent has ended")
