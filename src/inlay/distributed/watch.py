"""Ends a process that does nothing any more, so that its supervisor starts it again.

In: looks at the process, every second or so: has it spoken, is it well? Out: its end, once it has been silent for long
or is unwell. Knows nothing of how a process speaks.
"""

from __future__ import annotations

import time

from inlay.distributed.supervisor import Supervisor

WATCH_SECONDS = 1.0  # between two looks
LONGEST_LOOK = 3.0  # seconds from one look to the next; where it was longer, this process was paused itself
FIRST_WORD_SECONDS = 300.0  # for a new process to say anything: torch may come from a slow disk


class Watch:
    """On one process, whoever it is at the time."""

    def __init__(self, supervisor: Supervisor, stall_timeout: float) -> None:
        self._supervisor = supervisor
        self._stall_timeout = stall_timeout
        self._looked_at = time.monotonic()
        self._restarts = 0
        self._silence = 0.0  # seconds
        self._has_spoken = False

    def note(self, *, has_spoken: bool, why_unwell: str | None = None) -> None:
        """What was seen just now."""
        if self._restarts != self._supervisor.restarts:
            self._restarts = self._supervisor.restarts
            self._silence, self._has_spoken = 0.0, False
            has_spoken = False  # that was the one before it
        looked_at, self._looked_at = self._looked_at, time.monotonic()
        passed = self._looked_at - looked_at
        self._silence += passed if passed <= LONGEST_LOOK else 0.0  # what was said in a pause may not be read yet
        if has_spoken:
            self._silence, self._has_spoken = 0.0, True
        allowed = self._stall_timeout if self._has_spoken else max(self._stall_timeout, FIRST_WORD_SECONDS)
        if self._silence > allowed:
            why_unwell = f"it has not spoken for {self._silence:.0f} s"
        if why_unwell is not None:
            self._supervisor.kill(why_unwell)
            self._silence = 0.0
