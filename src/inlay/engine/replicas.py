"""Several engines that each hold a model whole: to the front half one worker.

In: work. Out: the same work, what was submitted together on the replica that will be done with it first; answers go to
whoever waits. What a replica loses is computed once more by another: an embedding is the same however often it is
computed. A replica that fails is left out, and the log says so, as long as another serves. Knows nothing of devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from inlay.errors import DeviceLost, WorkerDead
from inlay.telemetry.logs import get_logger
from inlay.types import WORKER_NUMBERS, Answer, Deliver, ModelSpec, Priority, Work, Worker, WorkerStats

log = get_logger("engine")

SLOWEST, FASTEST = 0.5, 2.0  # that one is taken for, of the average: a rate is also that of what it was given


@dataclass(slots=True, eq=False)
class _Replica:
    """One engine and what it has to do."""

    number: int
    worker: Worker
    waiting: int = 0  # characters or token ids
    taken: int = 0  # pieces of work since the start
    has_failed: bool = False


@dataclass(slots=True, eq=False)
class _Task:
    """Work without an answer, and where it is."""

    work: Work
    deliver: Deliver
    replica: _Replica
    was_lost: bool = False  # by another replica
    is_cancelled: bool = False

    @property
    def size(self) -> int:
        return 1 + len(self.work.content)


class ReplicaWorker:
    """At least one worker, all of the same model."""

    def __init__(self, replicas: Sequence[Worker]) -> None:
        self.is_counted_elsewhere = replicas[0].is_counted_elsewhere
        self._replicas = [_Replica(number, worker) for number, worker in enumerate(replicas)]
        self._lock = Lock()
        self._tasks: dict[int, _Task] = {}

    @property
    def spec(self) -> ModelSpec:
        return self._replicas[0].worker.spec

    @property
    def is_ready(self) -> bool:
        return any(replica.worker.is_ready for replica in self._replicas)

    @property
    def queued_tokens(self) -> int:
        return sum(replica.worker.queued_tokens for replica in self._replicas)

    @property
    def device_bytes(self) -> int:
        return sum(replica.worker.device_bytes for replica in self._replicas)

    @property
    def stats(self) -> WorkerStats:
        """Sums over the replicas."""
        every = [replica.worker.stats for replica in self._replicas]
        numbers = {name: sum(getattr(one, name) for one in every) for name in WORKER_NUMBERS}
        by_tokens = [sum(column) for column in zip(*(one.batches_by_tokens for one in every), strict=True)]
        return WorkerStats(**numbers, batches_by_tokens=by_tokens)

    def wait_loaded(self) -> None:
        """See `Worker.wait_loaded`."""
        for replica in self._replicas:
            replica.worker.wait_loaded()

    def submit_many(self, works: list[Work], deliver: Deliver) -> None:
        """See `Worker.submit_many`."""
        with self._lock:
            replica = self._soonest(self._serving() or self._replicas, sum(1 + len(work.content) for work in works))
            tasks = [_Task(work, deliver, replica) for work in works]
            self._place(tasks)
        replica.worker.submit_many(works, self._receive)

    def cancel_many(self, ids: list[int]) -> None:
        """See `Worker.cancel_many`."""
        for replica, own in self._by_replica(ids, are_cancelled=True).items():
            replica.worker.cancel_many(own)

    def promote_many(self, ids: list[int], priority: Priority) -> None:
        """See `Worker.promote_many`."""
        for replica, own in self._by_replica(ids).items():
            replica.worker.promote_many(own, priority)

    def health(self) -> str | None:
        """What is wrong with one of the replicas, once it is with all."""
        reasons = [replica.worker.health() for replica in self._replicas]
        for replica, reason in zip(self._replicas, reasons, strict=True):
            about = {"model": self.spec.name, "replica": replica.number}
            if reason is not None and not replica.has_failed:
                log.error("a replica of the model is left out", **about, because=reason)
            elif reason is None and replica.has_failed:
                log.info("a replica of the model serves again", **about)
            replica.has_failed = reason is not None
        return None if None in reasons else reasons[0]

    def close(self, timeout: float | None = None) -> bool:
        """See `Worker.close`."""
        are_closed = [replica.worker.close(timeout) for replica in self._replicas]
        return all(are_closed)

    def _serving(self) -> list[_Replica]:
        return [one for one in self._replicas if one.worker.is_ready and one.worker.health() is None]

    def _soonest(self, replicas: Sequence[_Replica], size: int) -> _Replica:
        """The one that will be done first with so much more, by the rate of its device."""
        rates = {one: one.worker.stats.tokens_per_second for one in replicas}
        known = [rate for rate in rates.values() if rate]
        average = sum(known) / len(known) if known else 1.0

        def expected(one: _Replica) -> tuple[float, int]:
            rate = min(max((rates[one] or average) / average, SLOWEST), FASTEST)
            return (one.waiting + size) / rate, one.taken

        return min(replicas, key=expected)

    def _place(self, tasks: list[_Task]) -> None:
        for task in tasks:
            self._tasks[task.work.id] = task
            task.replica.waiting += task.size
            task.replica.taken += 1

    def _receive(self, answers: list[Answer]) -> None:
        receivers: dict[Deliver, list[Answer]] = {}
        with self._lock:
            found = [(self._tasks.pop(answer.id), answer) for answer in answers]
            for task, _ in found:
                task.replica.waiting -= task.size
            again = self._placed_again([task for task, answer in found if _is_lost(answer)])
            for task, answer in found:
                if task not in again:
                    receivers.setdefault(task.deliver, []).append(answer)
        for deliver, own in receivers.items():
            deliver(own)
        if again:
            self._compute_again(again)

    def _placed_again(self, lost: list[_Task]) -> dict[_Task, None]:
        """Those of lost work that another replica takes: once, and where somebody still waits. Under the lock."""
        wanted = [task for task in lost if not (task.was_lost or task.is_cancelled)]
        others = [one for one in self._serving() if one not in {task.replica for task in wanted}] if wanted else []
        if not others:
            return {}
        for task in wanted:
            task.replica, task.was_lost = self._soonest(others, task.size), True
            self._place([task])
        return dict.fromkeys(wanted)

    def _compute_again(self, tasks: dict[_Task, None]) -> None:
        name = self.spec.name
        log.warning("what a replica lost is computed by another", model=name, sequences=len(tasks))
        for replica in {task.replica: None for task in tasks}:
            own = [task for task in tasks if task.replica is replica]
            replica.worker.submit_many([task.work for task in own], self._receive)
            if left := [task.work.id for task in own if task.is_cancelled]:  # while it was on its way
                replica.worker.cancel_many(left)

    def _by_replica(self, ids: list[int], *, are_cancelled: bool = False) -> dict[_Replica, list[int]]:
        found: dict[_Replica, list[int]] = {}
        with self._lock:
            for task in (self._tasks[id_] for id_ in ids if id_ in self._tasks):
                task.is_cancelled |= are_cancelled
                found.setdefault(task.replica, []).append(task.work.id)
        return found


def _is_lost(answer: Answer) -> bool:
    """Was it lost with its engine, so that another may well answer it?"""
    return answer.failure is not None and isinstance(answer.failure.error(), WorkerDead | DeviceLost)
