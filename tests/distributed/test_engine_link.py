"""Work under way is answered once, also when its engine ends; the engine that comes in its place is found."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import uvloop
from fakes import SPEC, FakeWorker, vector_of
from remote import RemoteEngine
from waiting import until

from inlay.errors import EngineError, NotReady, ShuttingDown, WorkerDead
from inlay.types import DENSE, Answer, Truncate, Work


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[RemoteEngine]:
    made = RemoteEngine(tmp_path, FakeWorker())
    yield made
    made.close()


class Answered:
    """Takes answers, and counts them."""

    def __init__(self) -> None:
        self.answers: dict[int, Answer] = {}
        self.counts: Counter[int] = Counter()

    def __call__(self, answers: list[Answer]) -> None:
        for answer in answers:
            self.answers[answer.id] = answer
            self.counts[answer.id] += 1

    def wait(self, number: int) -> None:
        until(lambda: len(self.answers) >= number)


def works(*contents: str, first: int = 0) -> list[Work]:
    return [Work(first + place, content, Truncate.END, 64) for place, content in enumerate(contents)]


def test_answers_come_back_with_their_outputs(engine: RemoteEngine) -> None:
    answered = Answered()
    engine.remote().submit_many(works("a", "bad", "c"), answered)
    answered.wait(3)
    assert answered.answers[0].outputs[DENSE] == vector_of("a").tobytes()
    assert np.array_equal(np.frombuffer(answered.answers[2].outputs[DENSE], np.float32), vector_of("c"))
    failure = answered.answers[1].failure
    assert failure is not None
    assert isinstance(failure.error(), EngineError)


def test_work_of_an_engine_that_ends_is_refused_at_once(engine: RemoteEngine) -> None:
    answered = Answered()
    worker = engine.remote()
    engine.worker.gate.clear()  # type: ignore[attr-defined]
    worker.submit_many(works("a", "b"), answered)
    until(lambda: engine.worker.submitted)  # type: ignore[attr-defined]
    engine.end()
    answered.wait(2)
    for answer in answered.answers.values():
        assert answer.failure is not None
        error = answer.failure.error()
        assert isinstance(error, WorkerDead)
        assert error.status == 503
        assert error.retry_after
    assert worker.health() is None, "it is started again"
    assert not worker.is_ready
    assert worker.spec.fingerprint, "what was computed can still be found in the cache"


def test_the_engine_that_comes_in_its_place_is_found(engine: RemoteEngine) -> None:
    worker, answered = engine.remote(), Answered()
    engine.end()
    until(lambda: not worker.is_ready)
    worker.submit_many(works("a"), answered)
    assert answered.answers[0].failure is not None
    engine.start(FakeWorker())
    until(lambda: worker.is_ready)
    worker.submit_many(works("a"), answered)
    until(lambda: answered.answers[0].failure is None)
    assert answered.answers[0].outputs[DENSE] == vector_of("a").tobytes()


def test_a_front_end_is_taken_once_there_is_a_thread_for_it(
    engine: RemoteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refused = threading.Thread.start, threading.Event()

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "inlay-connection" and not refused.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    answered = Answered()
    engine.remote().submit_many(works("a"), answered)
    answered.wait(1)
    assert refused.is_set()
    assert answered.answers[0].failure is None


def test_what_was_said_and_not_read_yet_is_seen(engine: RemoteEngine) -> None:
    link = engine.link()
    until(lambda: link.num_heard)
    held, taken = threading.Event(), threading.Event()

    def hold(message: object) -> None:
        taken.set()
        held.wait(30)

    link._take = hold  # type: ignore[method-assign]
    taken.wait(30)
    until(link.has_unread)
    held.set()


def test_an_engine_may_end_at_any_moment_and_each_work_is_answered_once(engine: RemoteEngine) -> None:
    worker, answered = engine.remote(), Answered()
    has_ended = threading.Event()
    numbers = iter(range(1_000_000))

    def ask() -> None:
        while not has_ended.is_set():
            worker.submit_many(works(f"text {number}", first=number) if (number := next(numbers)) else [], answered)
            time.sleep(0.0005)

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    for _ in range(15):
        until(lambda: worker.is_ready)
        time.sleep(0.01)
        engine.end()
        engine.start(FakeWorker())
    has_ended.set()
    for asker in askers:
        asker.join()
    asked = next(numbers) - 1
    answered.wait(asked)
    assert len(answered.counts) == asked
    assert set(answered.counts.values()) == {1}
    good = [answer for answer in answered.answers.values() if answer.failure is None]
    assert good
    assert all(answer.outputs[DENSE] == vector_of(f"text {answer.id}").tobytes() for answer in good)


def test_answers_come_on_the_loop_that_asks_and_also_after_it_was_closed(engine: RemoteEngine) -> None:
    worker = engine.remote()
    threads: list[str] = []

    class Noting(Answered):
        def __call__(self, answers: list[Answer]) -> None:
            threads.append(threading.current_thread().name)
            super().__call__(answers)

    async def ask(number: int) -> None:
        answered = Noting()
        for place in range(3):
            worker.submit_many(works("a", first=10 * number + place), answered)
            await asyncio.sleep(0.4)  # by the next sign of life the loop reads
        assert len(answered.answers) == 3

    for number in range(2):
        asyncio.run(ask(number))
    answered = Noting()
    worker.submit_many(works("a", first=100), answered)
    answered.wait(1)
    assert threading.main_thread().name in threads[:3]
    assert threading.main_thread().name in threads[3:6]
    assert threads[-1] == "inlay-link"


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_large_work_goes_out_also_on_a_socket_that_a_loop_reads(
    engine: RemoteEngine, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """uvloop makes it one that does not block."""
    worker = engine.remote()

    async def story() -> None:
        answered = Answered()
        worker.submit_many(works("a"), answered)
        await asyncio.sleep(0.6)
        worker.submit_many(works(*(f"{place} " + "x" * (4 << 20) for place in range(8)), first=1), answered)
        await asyncio.to_thread(answered.wait, 9)
        assert all(answer.failure is None for answer in answered.answers.values())

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(story())
    answered = Answered()
    worker.submit_many(works("after the loop"), answered)
    answered.wait(1)
    assert answered.answers[0].failure is None


def test_an_engine_that_ends_while_the_loop_reads_is_seen(engine: RemoteEngine) -> None:
    worker = engine.remote()

    async def story() -> None:
        answered = Answered()
        worker.submit_many(works("a"), answered)
        await asyncio.sleep(0.6)
        engine.worker.gate.clear()  # type: ignore[attr-defined]
        worker.submit_many(works("b", first=1), answered)
        await asyncio.sleep(0.1)
        engine.end()
        await asyncio.sleep(0.3)
        assert answered.answers[1].failure is not None
        engine.start(FakeWorker())
        await asyncio.to_thread(until, lambda: worker.is_ready)
        worker.submit_many(works("c", first=2), answered)
        await asyncio.sleep(0.6)
        assert answered.answers[2].failure is None
        assert set(answered.counts.values()) == {1}

    asyncio.run(story())


def test_cancelled_work_is_answered_and_reaches_the_worker(engine: RemoteEngine) -> None:
    worker, answered = engine.remote(), Answered()
    engine.worker.gate.clear()  # type: ignore[attr-defined]
    worker.submit_many(works("a"), answered)
    worker.cancel_many([0])
    answered.wait(1)
    until(lambda: engine.worker.cancelled)  # type: ignore[attr-defined]
    assert answered.answers[0].failure is not None
    assert answered.answers[0].failure.code == "client_closed_request"


def test_a_front_end_that_goes_leaves_no_work_behind(engine: RemoteEngine) -> None:
    worker, answered = engine.remote(), Answered()
    engine.worker.gate.clear()  # type: ignore[attr-defined]
    worker.submit_many(works("a", "b"), answered)
    until(lambda: len(engine.worker.submitted) == 2)  # type: ignore[attr-defined]
    worker.close()
    until(lambda: len(engine.worker.cancelled) == 2)  # type: ignore[attr-defined]
    assert {answer.failure.code for answer in answered.answers.values() if answer.failure} == {ShuttingDown.code}


def test_until_a_model_is_loaded_work_is_refused(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    engine = RemoteEngine(tmp_path / "far", FakeWorker())
    engine.end()
    worker, answered = engine.link(), Answered()
    worker.submit_many(SPEC.name, works("a"), answered)
    failure = answered.answers[0].failure
    assert failure is not None
    assert isinstance(failure.error(), NotReady)
    engine.close()


def test_who_waits_for_a_model_is_told_when_none_will_come(engine: RemoteEngine) -> None:
    link = engine.link()
    link.give_up(EngineError("ended 5 times"))
    with pytest.raises(EngineError, match="ended 5 times"):
        link.wait_loaded(SPEC.name)


def test_a_front_end_that_sends_what_is_no_work_loses_its_connection(
    engine: RemoteEngine, caplog: pytest.LogCaptureFixture
) -> None:
    from inlay.distributed.messages import Started

    worker = engine.link()
    worker.wait_loaded(SPEC.name)
    worker.send(Started())
    until(lambda: "is for no engine" in caplog.text)
    until(lambda: worker.state_of(SPEC.name).is_ready)  # it connects again
