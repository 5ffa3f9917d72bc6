"""How many requests and bytes may be in flight, and how long those that may not should wait before they ask again."""

from __future__ import annotations

import time
from types import TracebackType

from inlay.errors import Overloaded

SMOOTHING = 0.1
SHORTEST_RETRY, LONGEST_RETRY = 0.05, 60.0  # seconds


class Admission:
    """Used as a context manager around a request; refuses before a request begins, never in its middle."""

    def __init__(self, max_requests: int) -> None:
        self.max_requests = max_requests
        self.num_requests = 0
        self._last_finish = self._last_entry = time.monotonic()
        self._finish_interval = 0.0  # smoothed seconds between two requests that finish

    def __enter__(self) -> None:
        if self.num_requests >= self.max_requests:
            raise Overloaded(
                f"{self.num_requests} requests are in flight, the most this server takes: "
                "try again after the time in Retry-After",
                retry_after=min(max(self._finish_interval, self._waited(), SHORTEST_RETRY), LONGEST_RETRY),
            )
        self._last_entry = time.monotonic()
        if self.num_requests == 0:
            self._last_finish = self._last_entry  # how long nobody asked says nothing of how long requests take
        self.num_requests += 1

    def _waited(self) -> float:
        """How long nothing has moved: it will last at least as long again."""
        return time.monotonic() - max(self._last_finish, self._last_entry)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.num_requests -= 1
        now = time.monotonic()
        interval = now - self._last_finish
        self._finish_interval += SMOOTHING * (interval - self._finish_interval)
        self._last_finish = now


class ByteBudget:
    """Bytes of requests that are being read or answered."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0

    def take(self, num_bytes: int) -> None:
        """`Overloaded` when they are too many; nothing is taken then."""
        if self.taken + num_bytes > self.most and self.taken > 0:
            raise Overloaded(
                f"{self.taken} bytes of requests are in flight and at most {self.most} may be: "
                "try again after the time in Retry-After, or raise --max-inflight-bytes",
                retry_after=1.0,
            )
        self.taken += num_bytes

    def give_back(self, num_bytes: int) -> None:
        self.taken -= num_bytes
