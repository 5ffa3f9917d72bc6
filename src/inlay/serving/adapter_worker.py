"""An adapter that shares its base's worker: to the service a model of its own.

In: work for the adapter. Out: the same work, marked with it, for the worker of its base; answers go straight to whoever
waits. Knows nothing of how adapters are computed.
"""

from __future__ import annotations

from msgspec.structs import replace

from inlay.types import Deliver, ModelSpec, Priority, Work, Worker, WorkerStats


class AdapterWorker:
    """One adapter of a worker's spec. What it counts is counted by the base, and so is the memory."""

    is_counted_elsewhere = True
    device_bytes = 0

    def __init__(self, base: Worker, name: str) -> None:
        self.stats = WorkerStats()
        self._base = base
        self._name = name

    @property
    def spec(self) -> ModelSpec:
        """With dtype and fingerprint once the base is loaded."""
        return self._base.spec.adapters[self._name]

    @property
    def is_ready(self) -> bool:
        return self._base.is_ready

    @property
    def queued_tokens(self) -> int:
        """Of all that wait for the base's device."""
        return self._base.queued_tokens

    def wait_loaded(self) -> None:
        """See `Worker.wait_loaded`."""
        self._base.wait_loaded()

    def submit_many(self, works: list[Work], deliver: Deliver) -> None:
        """See `Worker.submit_many`."""
        self._base.submit_many([replace(work, adapter=self._name) for work in works], deliver)

    def cancel_many(self, ids: list[int]) -> None:
        """See `Worker.cancel_many`."""
        self._base.cancel_many(ids)

    def promote_many(self, ids: list[int], priority: Priority) -> None:
        """See `Worker.promote_many`."""
        self._base.promote_many(ids, priority)

    def health(self) -> str | None:
        """See `Worker.health`."""
        return self._base.health()

    def close(self, timeout: float | None = None) -> bool:
        """The base is closed by whoever made it."""
        return True
