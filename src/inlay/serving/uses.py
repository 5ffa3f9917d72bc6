"""Which workers are working for a request: one that no request uses can be ended.

A request uses its worker from the cache's look-up to the last answer. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from inlay.types import Worker


class Uses:
    """Requests by their worker."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()  # by id: workers are compared as objects
        self._has_fewer = asyncio.Event()

    @contextmanager
    def of(self, worker: Worker) -> Iterator[None]:
        """A request uses it."""
        self._counts[id(worker)] += 1
        try:
            yield
        finally:
            self._counts[id(worker)] -= 1
            if not self._counts[id(worker)]:
                del self._counts[id(worker)]
                self._has_fewer.set()

    async def wait_for_none(self, workers: Iterable[Worker]) -> None:
        """Returns when no request uses one of them."""
        ids = {id(worker) for worker in workers}
        while not ids.isdisjoint(self._counts):
            self._has_fewer.clear()
            await self._has_fewer.wait()
