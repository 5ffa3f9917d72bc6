"""A circuit breaker around a remote store: after a few failures in a row nobody waits for it any more.

In: how each raw call went. Out: whether to call at all. While it is open, a probe of its own asks the store
every second, so that no request pays for finding out. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from inlay.telemetry.logs import get_logger

log = get_logger("cache")

FAILURES = 3  # in a row
PROBE_SECONDS = 1.0


class Breaker:
    """Closed at first. `probe` raises while the store does not answer."""

    def __init__(self, name: str, probe: Callable[[], Awaitable[object]]) -> None:
        self.is_open = False
        self._name = name
        self._probe = probe
        self._failures = 0
        self._probing: asyncio.Task[None] | None = None

    def succeed(self) -> None:
        self._failures = 0

    def fail(self, error: Exception) -> None:
        """Count a failure; the last one that is borne opens the breaker."""
        self._failures += 1
        if self._failures >= FAILURES and not self.is_open:
            self.is_open = True
            log.warning("cache tier does not answer; going on without it", tier=self._name, error=repr(error))
            self._probing = asyncio.get_running_loop().create_task(self._wait_until_it_answers())

    async def close(self) -> None:
        """Stop asking."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)

    async def _wait_until_it_answers(self) -> None:
        while self.is_open:
            await asyncio.sleep(PROBE_SECONDS)
            try:
                await self._probe()
            except Exception as error:  # noqa: BLE001 - whatever it is, the store is not back
                log.debug("cache tier still does not answer", tier=self._name, error=repr(error))
            else:
                self._failures = 0
                self.is_open = False
                log.info("cache tier answers again", tier=self._name)
