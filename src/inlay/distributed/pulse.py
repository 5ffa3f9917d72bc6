"""Sockets whose end tells within a moment that a process was killed.

A process that is killed gives its memory back first and closes its sockets last: of a large model that takes hundreds
of milliseconds, in which whoever waits for it could be told already. So one of its threads has a table of descriptors
of its own, with these sockets alone: it ends before the memory goes, and they end with it. Linux can do that (5.9 and
newer); elsewhere an end is seen a little later, by the connection itself.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

from inlay.telemetry.logs import get_logger

log = get_logger("processes")

_CLOSE_RANGE = 436  # the system call, on all processors
_UNSHARE = 2  # the calling thread has a table of its own from then on
_LAST = (1 << 32) - 1
PAUSE_SECONDS = 0.25
SUFFIX = ".pulse"  # of the address, behind that of the engine


def start_pulse(listener: int) -> None:
    """Let whoever connects to a listening descriptor see at once that this process ends."""
    if sys.platform == "linux":
        Thread(target=_hold, args=(listener,), name="inlay-pulse", daemon=True).start()


class Pulse:
    """Watches a process by its address, from another one; `on_end` is called once, on a thread, when it ends."""

    def __init__(self, address: str, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._socket: socket.socket | None = None
        try:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(address + SUFFIX)
            Thread(target=self._watch, args=(self._socket,), name="inlay-pulse", daemon=True).start()
        except (OSError, RuntimeError) as error:  # no such socket, no descriptor, no thread
            log.debug("there is no pulse to watch", address=address, error=repr(error))
            if self._socket is not None:
                self._socket.close()

    def close(self) -> None:
        """Watch no more."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _watch(self, watched: socket.socket) -> None:
        with watched, suppress(OSError):
            watched.recv(1)
        self._on_end()


def _hold(listener: int) -> None:
    """Runs for as long as the process. Its descriptors are numbers alone: no other thread may close them."""
    kernel = ctypes.CDLL(None, use_errno=True)
    if kernel.syscall(_CLOSE_RANGE, listener + 1, _LAST, _UNSHARE) != 0:
        log.debug("no pulse on this system", error=os.strerror(ctypes.get_errno()))
        return
    kernel.syscall(_CLOSE_RANGE, 3, listener - 1, 0)
    accepting = socket.socket(fileno=listener)
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    while True:
        for descriptor, _ in waiting.poll():
            if descriptor == listener:
                try:
                    waiting.register(accepting.accept()[0].detach(), select.POLLIN)
                except OSError as error:  # no descriptor: whoever watches is told a little later
                    log.warning("a pulse could not be given", error=repr(error))
                    time.sleep(PAUSE_SECONDS)
            else:  # whoever watched has gone
                waiting.unregister(descriptor)
                os.close(descriptor)
