"""How long a request waits: until all its flights have landed, the client has gone, or the time is over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection

from inlay.errors import Cancelled, DeadlineExceeded
from inlay.requests import Request
from inlay.serving.flight_table import Flight


class Gathering:
    """One request's wait for its flights; done with all of them, or with the first that fails."""

    def __init__(self, flying: Collection[Flight], led: Collection[Flight], *, is_patient: bool) -> None:
        self.has_failed = False
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._remaining = len(flying)
        self._led = set(led)  # by this request itself
        self._is_patient = is_patient  # wait for all, whatever fails
        for flight in flying:
            flight.listeners.append(self)

    def __call__(self, flight: Flight) -> None:
        """A flight has landed."""
        self._remaining -= 1
        has_failed = flight.error is not None and not self.is_foreign_refusal(flight)
        if has_failed and not self._is_patient:
            self.has_failed = True
        if (self._remaining == 0 or self.has_failed) and not self._future.done():
            self._future.set_result(None)

    def is_foreign_refusal(self, flight: Flight) -> bool:
        """Did another request lead the flight, and was it refused as a whole?"""
        return flight.error is not None and flight.error.is_of_request and flight not in self._led

    async def wait(self, request: Request) -> None:
        """`Cancelled` when the client has gone first, `DeadlineExceeded` when the time is over."""
        if self._remaining == 0:
            return
        timeout = None if request.deadline is None else max(request.deadline - time.monotonic(), 0)
        departure = None if request.departed is None else asyncio.ensure_future(request.departed())
        wanted: set[asyncio.Future[object]] = {self._future}  # type: ignore[arg-type]
        if departure is not None:
            wanted.add(departure)
        try:
            await asyncio.wait(wanted, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if departure is not None:
                departure.cancel()
        if self._future.done():
            return
        if departure is not None and departure.done():
            raise Cancelled("the client has gone")
        raise DeadlineExceeded(
            "the time for this request ran out: send fewer inputs, or give it longer (x-request-deadline-ms, "
            "--request-timeout)"
        )
