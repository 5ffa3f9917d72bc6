"""Replicas share the work, are left out when they fail, and look like one worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from fakes import SPEC

from inlay.engine.replicas import ReplicaWorker
from inlay.errors import Overloaded, WorkerDead
from inlay.types import Answer, Deliver, Failure, Priority, Truncate, Work, WorkerStats


@dataclass
class HeldWorker:
    """Answers when it is told to."""

    spec: Any = SPEC
    is_ready: bool = True
    queued_tokens: int = 3
    device_bytes: int = 5
    is_counted_elsewhere: bool = False
    reason: str | None = None
    stats: WorkerStats = field(default_factory=lambda: WorkerStats(batches=2, tokens_per_second=10.0))
    held: list[tuple[list[Work], Deliver]] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    promoted: list[int] = field(default_factory=list)
    is_closed: bool = False

    def health(self) -> str | None:
        return self.reason

    def wait_loaded(self) -> None:
        pass

    def submit_many(self, works: list[Work], deliver: Deliver) -> None:
        self.held.append((works, deliver))

    def answer(self, failure: Failure | None = None) -> None:
        held, self.held = self.held, []
        for works, deliver in held:
            deliver([Answer(work.id, failure=failure) for work in works])

    def die(self) -> None:
        """As a link does when its engine ends."""
        self.is_ready = False
        self.answer(Failure.of(WorkerDead("the engine has ended")))

    def cancel_many(self, ids: list[int]) -> None:
        self.cancelled += ids

    def promote_many(self, ids: list[int], priority: Priority) -> None:
        self.promoted += ids

    def close(self, timeout: float | None = None) -> bool:
        self.is_closed = True
        return True


def works(first: int, *texts: str) -> list[Work]:
    return [Work(first + number, text, Truncate.NONE, 100) for number, text in enumerate(texts)]


@pytest.fixture
def replicas() -> list[HeldWorker]:
    return [HeldWorker(), HeldWorker()]


@pytest.fixture
def worker(replicas: list[HeldWorker]) -> ReplicaWorker:
    return ReplicaWorker(replicas)


def test_work_goes_to_the_one_with_least_to_do(worker: ReplicaWorker, replicas: list[HeldWorker]) -> None:
    answers: list[Answer] = []
    worker.submit_many(works(0, "a long text " * 50), answers.extend)
    for number in range(1, 6):
        worker.submit_many(works(number, "short"), answers.extend)
    assert [len(replica.held) for replica in replicas] == [1, 5]
    replicas[0].answer()
    worker.submit_many(works(6, "short"), answers.extend)
    assert [len(replica.held) for replica in replicas] == [1, 5]
    for replica in replicas:
        replica.answer()
    assert sorted(answer.id for answer in answers) == list(range(7))


def test_what_concerns_work_goes_where_the_work_is(worker: ReplicaWorker, replicas: list[HeldWorker]) -> None:
    worker.submit_many(works(0, "one", "two"), lambda answers: None)
    worker.submit_many(works(2, "three"), lambda answers: None)
    worker.promote_many([0, 2], Priority.HIGH)
    worker.cancel_many([1, 2, 99])
    assert (replicas[0].promoted, replicas[1].promoted) == ([0], [2])
    assert (replicas[0].cancelled, replicas[1].cancelled) == ([1], [2])


def test_one_that_fails_is_left_out_until_it_serves_again(worker: ReplicaWorker, replicas: list[HeldWorker]) -> None:
    replicas[0].reason = "the device is lost"
    for number in range(3):
        worker.submit_many(works(number, "text"), lambda answers: None)
    assert [len(replica.held) for replica in replicas] == [0, 3]
    assert worker.health() is None
    replicas[1].reason = "the other too"
    assert worker.health() == "the device is lost"
    worker.submit_many(works(9, "text"), lambda answers: None)  # somebody has to say why not
    assert len(replicas[0].held) == 1
    replicas[0].reason = None
    assert worker.health() is None


def test_figures_are_sums(worker: ReplicaWorker, replicas: list[HeldWorker]) -> None:
    assert (worker.stats.batches, worker.stats.tokens_per_second) == (4, 20.0)
    assert (worker.queued_tokens, worker.device_bytes) == (6, 10)
    assert worker.close()
    assert all(replica.is_closed for replica in replicas)
    replicas[0].is_ready = False
    assert worker.is_ready


def test_what_one_loses_is_computed_by_another_and_answered_once(
    worker: ReplicaWorker, replicas: list[HeldWorker]
) -> None:
    answers: list[Answer] = []
    worker.submit_many(works(0, "one", "two"), answers.extend)
    worker.submit_many(works(2, "three"), answers.extend)
    replicas[0].die()
    assert not answers
    replicas[1].answer()
    assert sorted((answer.id, answer.failure) for answer in answers) == [(0, None), (1, None), (2, None)]


def test_what_is_lost_twice_or_by_the_last_one_is_refused(worker: ReplicaWorker, replicas: list[HeldWorker]) -> None:
    answers: list[Answer] = []
    worker.submit_many(works(0, "one"), answers.extend)
    replicas[0].die()
    replicas[0].is_ready = True
    replicas[1].die()
    assert [answer.failure and answer.failure.code for answer in answers] == [WorkerDead.code]
    worker.submit_many(works(1, "two"), answers.extend)
    replicas[0].die()
    assert [answer.id for answer in answers] == [0, 1]


def test_what_is_refused_for_other_reasons_is_not_tried_elsewhere(
    worker: ReplicaWorker, replicas: list[HeldWorker]
) -> None:
    answers: list[Answer] = []
    worker.submit_many(works(0, "one"), answers.extend)
    replicas[0].answer(Failure.of(Overloaded("full")))
    assert [answer.failure and answer.failure.code for answer in answers] == [Overloaded.code]
    assert not replicas[1].held


def test_nobody_computes_again_what_nobody_waits_for(worker: ReplicaWorker, replicas: list[HeldWorker]) -> None:
    answers: list[Answer] = []
    worker.submit_many(works(0, "one", "two"), answers.extend)
    worker.cancel_many([0])
    replicas[0].die()
    assert [work.id for held, _ in replicas[1].held for work in held] == [1]
    worker.cancel_many([1])
    assert replicas[1].cancelled == [1]


def test_one_that_is_slower_gets_less(worker: ReplicaWorker, replicas: list[HeldWorker]) -> None:
    replicas[0].stats.tokens_per_second, replicas[1].stats.tokens_per_second = 3000.0, 1000.0
    for number in range(16):
        worker.submit_many(works(number, "x" * 99), lambda answers: None)
    assert [len(replica.held) for replica in replicas] == [12, 4]


def test_a_rate_is_not_taken_for_more_than_it_is(worker: ReplicaWorker, replicas: list[HeldWorker]) -> None:
    """It is that of the batches that there were: one that had small ones alone is not left without work."""
    replicas[0].stats.tokens_per_second = 100.0 * replicas[1].stats.tokens_per_second
    for number in range(16):
        worker.submit_many(works(number, "x" * 99), lambda answers: None)
    assert len(replicas[1].held) >= 3
