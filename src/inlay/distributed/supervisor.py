"""Keeps a process running: starts it again when it ends, and gives it up when it cannot even start.

In: how it is started. Out: a log line for each end, how often it was started again, and an error once it is given up.
What had served starts again at once; what ends before it serves waits longer each time, so that a fault does not spin.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from threading import Event, Thread

from inlay.distributed.child import Child
from inlay.distributed.messages import Told
from inlay.errors import EngineError, InlayError
from inlay.telemetry.logs import get_logger
from inlay.types import Failure

log = get_logger("processes")

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0  # seconds
MOST_FAILED_STARTS = 5  # in a row


class Supervisor:
    """One process, whoever it is at the time."""

    def __init__(self, name: str, start: Callable[[], Child], on_give_up: Callable[[InlayError], None]) -> None:
        self.name = name
        self.restarts = 0
        self._start = start
        self._on_give_up = on_give_up
        self._child: Child | None = None
        self._is_closing = Event()
        self._thread = Thread(target=self._run, name=f"inlay-{name}", daemon=True)
        self._thread.start()

    def ask(self, timeout: float) -> Told | None:
        """How the process is; None where it does not say within the time (seconds)."""
        child = self._child
        return None if child is None else child.ask(timeout)

    def kill(self, reason: str) -> None:
        """End the process, which is not well; it is started again."""
        if (child := self._child) is not None:
            log.error("a process is ended, to be started again", process_name=self.name, because=reason)
            child.kill()

    def terminate(self) -> None:
        """Ask the process to end in good order. It is not started again."""
        self._is_closing.set()
        if (child := self._child) is not None:
            child.terminate()

    def close(self) -> None:
        """End the process and wait until it has ended."""
        self._is_closing.set()
        if (child := self._child) is not None:
            child.close()
        self._thread.join()

    def wait(self, timeout: float) -> bool:
        """Has the process ended, for good, within the time (seconds)?"""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        failed_starts = 0
        while not self._is_closing.is_set():
            started, end = self._run_once()
            if isinstance(started, Failure):
                end = f"{end}: {started.message}"
            if self._is_closing.is_set():
                return
            self.restarts += 1
            failed_starts = 0 if started is True else failed_starts + 1
            log.error("a process has ended", process_name=self.name, end=end, had_started=started is True)
            if isinstance(started, Failure) and self.restarts == failed_starts:  # it has never served, and says why
                self._on_give_up(started.error())
                return
            if failed_starts == MOST_FAILED_STARTS:
                self._on_give_up(
                    EngineError(f"process {self.name} ended {failed_starts} times before it served ({end})")
                )
                return
            pause = min(FIRST_PAUSE * 2**failed_starts, LONGEST_PAUSE) * random.uniform(0.5, 1)  # noqa: S311
            self._is_closing.wait(pause)

    def _run_once(self) -> tuple[bool | Failure, str]:
        """Start the process and wait until it has ended: did it serve, and what was its end?"""
        try:
            self._child = child = self._start()
        except Exception as error:  # noqa: BLE001 - no descriptor, no memory, no thread: perhaps the next time
            return False, f"no process: {error}"
        if self._is_closing.is_set():
            child.close()
        started = child.started()
        if self.restarts and started is True:
            log.info("a process serves again", process_name=self.name, restarts=self.restarts)
        end = child.ended()
        self._child = None
        return started, end
