"""A circuit breaker around a store: after a few failures in a row nobody waits for it any more.

In: how each raw call went. Out: whether to call at all. While it is open, a probe of its own asks the store
every second, so that no request pays for finding out; one that fails again soon is asked less often. Lives on
one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from inlay.telemetry.logs import get_logger

log = get_logger("cache")

FAILURES = 3  # in a row, of one kind of call
PROBE_SECONDS, LONGEST_PROBE_SECONDS = 1.0, 8.0
SOON_SECONDS = 10.0  # one that opens again so soon after it was closed waits twice as long


class Breaker:
    """Closed at first. `probe` raises while the store does not answer."""

    def __init__(self, name: str, probe: Callable[[], Awaitable[object]]) -> None:
        self.is_open = False
        self._name = name
        self._probe = probe
        self._failures: Counter[str] = Counter()
        self._probing: asyncio.Task[None] | None = None
        self._pause = PROBE_SECONDS
        self._closed_at = -SOON_SECONDS

    def succeed(self, kind: str) -> None:
        self._failures[kind] = 0

    def fail(self, kind: str, error: Exception) -> None:
        """Count a failure; the last one that is borne opens the breaker."""
        self._failures[kind] += 1
        if self._failures[kind] >= FAILURES and not self.is_open:
            self.is_open = True
            is_again = time.monotonic() - self._closed_at < SOON_SECONDS
            self._pause = min(self._pause * 2, LONGEST_PROBE_SECONDS) if is_again else PROBE_SECONDS
            log.warning("cache tier does not answer; going on without it", tier=self._name, error=repr(error))
            self._probing = asyncio.get_running_loop().create_task(self._wait_until_it_answers())

    async def close(self) -> None:
        """Stop asking."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)

    async def _wait_until_it_answers(self) -> None:
        while self.is_open:
            await asyncio.sleep(self._pause)
            try:
                await self._probe()
            except Exception as error:  # noqa: BLE001 - whatever it is, the store is not back
                log.debug("cache tier still does not answer", tier=self._name, error=repr(error))
            else:
                self._failures.clear()
                self.is_open = False
                self._closed_at = time.monotonic()
                log.info("cache tier answers again", tier=self._name)
