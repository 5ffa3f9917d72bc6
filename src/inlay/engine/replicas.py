"""Several engines that each hold a model whole: to the front half one worker.

In: work. Out: the same work, what was submitted together on the replica that has least to do; answers go straight to
whoever waits. A replica that fails is left out, and the log says so, as long as another serves. Knows nothing of
devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from inlay.telemetry.logs import get_logger
from inlay.types import WORKER_NUMBERS, Answer, Deliver, ModelSpec, Priority, Work, Worker, WorkerStats

log = get_logger("engine")


class ReplicaWorker:
    """At least one worker, all of the same model."""

    def __init__(self, replicas: Sequence[Worker]) -> None:
        self.is_counted_elsewhere = replicas[0].is_counted_elsewhere
        self._replicas = replicas
        self._lock = Lock()
        self._places: dict[int, tuple[int, int]] = {}  # of work without an answer: its replica and how much it is
        self._waiting = [0] * len(replicas)  # sums of these, by replica
        self._failed: set[int] = set()

    @property
    def spec(self) -> ModelSpec:
        return self._replicas[0].spec

    @property
    def is_ready(self) -> bool:
        return any(replica.is_ready for replica in self._replicas)

    @property
    def queued_tokens(self) -> int:
        return sum(replica.queued_tokens for replica in self._replicas)

    @property
    def device_bytes(self) -> int:
        return sum(replica.device_bytes for replica in self._replicas)

    @property
    def stats(self) -> WorkerStats:
        """Sums over the replicas."""
        every = [replica.stats for replica in self._replicas]
        numbers = {name: sum(getattr(one, name) for one in every) for name in WORKER_NUMBERS}
        by_tokens = [sum(column) for column in zip(*(one.batches_by_tokens for one in every), strict=True)]
        return WorkerStats(**numbers, batches_by_tokens=by_tokens)

    def wait_loaded(self) -> None:
        """See `Worker.wait_loaded`."""
        for replica in self._replicas:
            replica.wait_loaded()

    def submit_many(self, works: list[Work], deliver: Deliver) -> None:
        """See `Worker.submit_many`."""
        sizes = {work.id: 1 + len(work.content) for work in works}
        with self._lock:
            serving = self._serving() or range(len(self._replicas))
            place = min(serving, key=lambda number: self._waiting[number])
            self._places.update({id_: (place, size) for id_, size in sizes.items()})
            self._waiting[place] += sum(sizes.values())

        def note_and_deliver(answers: list[Answer]) -> None:
            with self._lock:
                for answer in answers:
                    place, size = self._places.pop(answer.id)
                    self._waiting[place] -= size
            deliver(answers)

        self._replicas[place].submit_many(works, note_and_deliver)

    def cancel_many(self, ids: list[int]) -> None:
        """See `Worker.cancel_many`."""
        for place, own in self._by_replica(ids).items():
            self._replicas[place].cancel_many(own)

    def promote_many(self, ids: list[int], priority: Priority) -> None:
        """See `Worker.promote_many`."""
        for place, own in self._by_replica(ids).items():
            self._replicas[place].promote_many(own, priority)

    def health(self) -> str | None:
        """What is wrong with one of the replicas, once it is with all."""
        reasons = [replica.health() for replica in self._replicas]
        for number, reason in enumerate(reasons):
            if reason is not None and number not in self._failed:
                self._failed.add(number)
                log.error("a replica of the model is left out", model=self.spec.name, replica=number, because=reason)
            elif reason is None and number in self._failed:
                self._failed.discard(number)
                log.info("a replica of the model serves again", model=self.spec.name, replica=number)
        return None if None in reasons else reasons[0]

    def close(self, timeout: float | None = None) -> bool:
        """See `Worker.close`."""
        are_closed = [replica.close(timeout) for replica in self._replicas]
        return all(are_closed)

    def _serving(self) -> list[int]:
        replicas = enumerate(self._replicas)
        return [number for number, replica in replicas if replica.is_ready and replica.health() is None]

    def _by_replica(self, ids: list[int]) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        with self._lock:
            for id_ in ids:
                if id_ in self._places:
                    found.setdefault(self._places[id_][0], []).append(id_)
        return found
