"""The engine around a fake device: nothing is lost, only those at fault fail, and health tells the truth."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from asking import Asked, Receiver, embed
from fakes import HEAVY, INFINITE, POISON, SPEC, FakeRunner, QueuedRunner, make_engine
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.engine import loop as module
from inlay.engine.worker import DeviceWorker
from inlay.errors import (
    Cancelled,
    ContextLengthExceeded,
    DeviceLost,
    EngineError,
    InvalidInput,
    ModelError,
    NonFiniteVector,
    NotReady,
    OutOfMemory,
    Overloaded,
    ShuttingDown,
    TooLarge,
    WorkerDead,
)
from inlay.types import Answer, Truncate


def make_worker(runner: FakeRunner, **limits: int) -> DeviceWorker:
    worker = DeviceWorker(SPEC, lambda spec, stats: make_engine(runner, stats, **limits), stall_timeout=60)
    worker.wait_loaded()
    return worker


@pytest.fixture(params=[False, True], ids=["synchronous", "asynchronous"])
def runner(request: pytest.FixtureRequest) -> FakeRunner:
    return FakeRunner(is_asynchronous=request.param)


@pytest.fixture
def worker(runner: FakeRunner) -> Iterator[DeviceWorker]:
    made = make_worker(runner)
    yield made
    runner.gate.set()
    made.close()


def test_each_item_gets_its_own_vector(worker: DeviceWorker) -> None:
    items = embed(worker, ["a", "bcd", "b" * 60, [1, 2, 3]])
    sums = [item.vector[0] for item in items if item.vector is not None]
    assert sums == [97, 98 + 99 + 100, 98 * 60, 6]
    assert [item.answer.num_tokens for item in items] == [1, 3, 60, 3]


def test_in_a_failed_batch_only_the_one_at_fault_fails(worker: DeviceWorker) -> None:
    items = embed(worker, [[1, 2], [POISON], [3]])
    assert [type(item.error) for item in items] == [type(None), EngineError, type(None)]
    assert worker.stats.retried_batches == 1
    assert worker.health() is None


def test_out_of_memory_halves_the_batch_until_it_fits() -> None:
    runner = FakeRunner(max_tokens=4)
    worker = make_worker(runner)
    items = embed(worker, [[1, number] for number in range(20, 28)])
    assert all(item.error is None for item in items)
    assert [len(batch) for batch in runner.batches] == [8, 4, 2, 2, 4, 2, 2]
    worker.close()


def test_equal_sequences_of_a_batch_run_once() -> None:
    runner = FakeRunner()
    worker = make_worker(runner)
    items = embed(worker, [[1, 2], [4], [1, 2], [1, 2]])
    assert "launch 3" in runner.events
    assert [item.vector[0] for item in items] == [3.0, 4.0, 3.0, 3.0]
    assert [item.answer.num_tokens for item in items] == [2, 1, 2, 2]
    worker.close()


def test_an_input_that_never_fits_fails_alone(worker: DeviceWorker) -> None:
    items = embed(worker, [[1], [HEAVY], [2]])
    assert [type(item.error) for item in items] == [type(None), OutOfMemory, type(None)]
    assert worker.health() is None


def test_a_vector_that_is_not_finite_is_an_error_and_not_a_vector(worker: DeviceWorker) -> None:
    bad, good = embed(worker, [[INFINITE], [1]])
    assert isinstance(bad.error, NonFiniteVector)
    assert bad.vector is None
    assert good.error is None


def test_a_device_that_fails_what_it_ran_before_is_unhealthy_until_it_works_again(
    worker: DeviceWorker, runner: FakeRunner
) -> None:
    runner.is_broken = True
    embed(worker, [[1]])
    wait_until(lambda: worker.health() is not None)
    runner.is_broken = False
    embed(worker, [[1]])
    assert worker.health() is None


@pytest.mark.parametrize(
    ("content", "error", "told"),
    [
        ("x" * 65, ContextLengthExceeded, '65 tokens.*at most 64.*truncate to "end"'),
        ([], InvalidInput, "no tokens"),
        ([3, 256], InvalidInput, "id 256"),
        ([-1, 3], InvalidInput, "ids are 0 to 255"),
    ],
)
def test_a_bad_input_is_refused_with_its_reason(
    worker: DeviceWorker, content: str | list[int], error: type[Exception], told: str
) -> None:
    bad, good = embed(worker, [content, "fine"])
    assert isinstance(bad.error, error)
    with pytest.raises(error, match=told):
        raise bad.error
    assert good.error is None


@pytest.mark.parametrize("content", ["x" * 63 + "yz", [1] * 63 + [2, 3]])
def test_a_too_long_input_is_cut_where_asked(worker: DeviceWorker, content: str | list[int]) -> None:
    receiver = Receiver()
    items = [Asked(content, truncate=Truncate.END), Asked(content, truncate=Truncate.START)]
    receiver.submit(worker, items)
    receiver.wait(2)
    sums = [float(item.vector[0]) for item in items if item.vector is not None]
    ids = [ord(c) for c in content] if isinstance(content, str) else content
    assert sums == [sum(ids[:64]), sum(ids[-64:])]
    assert all(item.answer.is_truncated and item.answer.num_tokens == 64 for item in items)


def test_a_request_is_queued_whole_or_refused_whole(runner: FakeRunner) -> None:
    worker = make_worker(runner, max_queue_tokens=10)
    runner.gate.clear()
    first, waiting, refused, huge = Receiver(), Receiver(), Receiver(), Receiver()
    first.submit(worker, [Asked([1])])
    wait_until(lambda: bool(runner.events) and worker.queued_tokens == 0)
    waiting.submit(worker, [Asked([1] * 8)])
    wait_until(lambda: worker.queued_tokens == 8)
    refused.submit(worker, [Asked([1]), Asked([1, 2])])
    huge.submit(worker, [Asked([1] * 11)])
    for item in refused.wait(2):
        assert isinstance(item.error, Overloaded)
        assert item.error.retry_after is not None
        assert item.error.retry_after > 0
    assert isinstance(huge.wait(1)[0].error, TooLarge)
    runner.gate.set()
    assert first.wait(1)[0].error is None
    assert waiting.wait(1)[0].error is None
    worker.close()


def test_cancelled_work_is_dropped_and_makes_room(runner: FakeRunner) -> None:
    worker = make_worker(runner, max_queue_tokens=10)
    runner.gate.clear()
    first, gone, late = Receiver(), Receiver(), Receiver()
    first.submit(worker, [Asked([1])])
    wait_until(lambda: bool(runner.events) and worker.queued_tokens == 0)
    cancelled = Asked([1] * 9)
    gone.submit(worker, [cancelled])
    wait_until(lambda: worker.queued_tokens == 9)
    worker.cancel_many([cancelled.work.id])
    assert isinstance(gone.wait(1)[0].error, Cancelled)
    assert worker.queued_tokens == 0
    late.submit(worker, [Asked([1] * 5)])
    runner.gate.set()
    assert late.wait(1)[0].error is None
    assert worker.stats.dropped_sequences == 1
    worker.close()


def test_the_next_batch_is_sent_before_an_asynchronous_one_is_collected() -> None:
    runner = FakeRunner(is_asynchronous=True)
    worker = make_worker(runner, max_batch_tokens=8)
    embed(worker, [[1] * length for length in (3, 5, 6, 7)])
    launches = [event for event in runner.events if event.startswith("launch")]
    assert runner.events.index(launches[1]) < runner.events.index(launches[0].replace("launch", "collect"))
    worker.close()


def test_who_comes_while_a_batch_runs_is_in_the_next_one_though_others_wait() -> None:
    runner = QueuedRunner(seconds=0.3)
    worker = make_worker(runner, max_batch_tokens=8)
    embed(worker, [[1] * 8])  # how long such a batch takes is learnt
    bulk, late = Receiver(), Receiver()
    bulk.submit(worker, [Asked([number] * 8) for number in range(2, 6)])
    wait_until(lambda: runner.events.count("launch 8") == 2)
    late.submit(worker, [Asked([9])])
    late.wait(1)
    bulk.wait(4)
    launches = [event for event in runner.events if event.startswith("launch")]
    assert launches.index("launch 1") <= 2, "the next batch was formed too early"
    worker.close()


def test_closing_refuses_what_waits_and_what_comes(runner: FakeRunner) -> None:
    worker = make_worker(runner, max_batch_tokens=4)
    runner.gate.clear()
    flying, waiting, late = Receiver(), Receiver(), Receiver()
    flying.submit(worker, [Asked([1] * 4)])
    wait_until(lambda: bool(runner.events) and worker.queued_tokens == 0)
    waiting.submit(worker, [Asked([1] * 3)])
    wait_until(lambda: worker.queued_tokens == 3)
    closing = threading.Thread(target=worker.close)
    closing.start()
    assert isinstance(waiting.wait(1)[0].error, ShuttingDown)
    runner.gate.set()
    assert flying.wait(1)[0].error is None
    closing.join()
    late.submit(worker, [Asked([1])])
    assert isinstance(late.wait(1)[0].error, ShuttingDown)


def test_a_model_that_does_not_load_says_why_to_everyone() -> None:
    def fail(spec: object, stats: object) -> None:
        raise ModelError("no weights")

    worker = DeviceWorker(SPEC, fail, stall_timeout=60)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="no weights"):
        worker.wait_loaded()
    assert worker.health() == "no weights"
    assert not worker.is_ready
    (item,) = embed(worker, ["a"])
    assert isinstance(item.error, WorkerDead)
    worker.close()


def test_while_a_model_loads_requests_are_told_to_come_back() -> None:
    gate = threading.Event()

    def load(spec: object, stats: object) -> object:
        gate.wait(30)
        return make_engine(FakeRunner(), stats)  # type: ignore[arg-type]

    worker = DeviceWorker(SPEC, load, stall_timeout=60)  # type: ignore[arg-type]
    (item,) = embed(worker, ["a"])
    assert isinstance(item.error, NotReady)
    gate.set()
    worker.wait_loaded()
    assert embed(worker, ["a"])[0].error is None
    worker.close()


def test_a_loop_that_dies_answers_everything_and_says_so(runner: FakeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker(runner)
    monkeypatch.setattr(module.DeviceLoop, "_answer", lambda *arguments: 1 / 0)
    items = embed(worker, ["a", "b"]) if runner.is_asynchronous else None
    if items is None:
        receiver = Receiver()
        receiver.submit(worker, [Asked("a")])
        items = receiver.wait(1)
        wait_until(lambda: worker.health() is not None)
    assert all(isinstance(item.error, WorkerDead) for item in items)
    assert "died" in (worker.health() or "")
    (late,) = embed(worker, ["c"])
    assert isinstance(late.error, WorkerDead)


def test_a_loop_that_is_stuck_is_unhealthy(runner: FakeRunner) -> None:
    worker = DeviceWorker(SPEC, lambda spec, stats: make_engine(runner, stats), stall_timeout=0.05)
    worker.wait_loaded()
    runner.gate.clear()
    receiver = Receiver()
    receiver.submit(worker, [Asked("a")])
    wait_until(lambda: "not answered" in (worker.health() or ""))
    runner.gate.set()
    receiver.wait(1)
    worker.close()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(
            st.sampled_from([[1], [2, 3], [4] * 40, [POISON], [HEAVY], [INFINITE], [300]]), min_size=1, max_size=9
        ),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
def test_whatever_fails_every_item_comes_back_once_with_a_vector_or_an_error(
    contents: list[list[list[int]]], is_asynchronous: bool
) -> None:
    worker = make_worker(FakeRunner(is_asynchronous=is_asynchronous, max_tokens=50))
    receivers = []
    for request in contents:
        receiver = Receiver()
        items = [Asked(content) for content in request]
        receiver.submit(worker, items)
        receivers.append((receiver, items))
    for receiver, items in receivers:
        back = receiver.wait(len(items))
        assert sorted(map(id, back)) == sorted(map(id, items))
        for item in items:
            is_bad = bool({POISON, HEAVY, INFINITE, 300} & set(item.work.content))
            assert (item.error is not None) == is_bad
            assert (item.vector is None) == is_bad
    worker.close()


def wait_until(is_so: object, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.002)


def long_worker() -> tuple[FakeRunner, DeviceWorker]:
    runner = FakeRunner()
    runner.longest_whole = 10
    return runner, make_worker(runner, max_batch_tokens=16)


def start(worker: DeviceWorker, content: list[int]) -> tuple[Asked, Receiver]:
    item, receiver = Asked(content), Receiver()
    receiver.submit(worker, [item])
    return item, receiver


def test_short_inputs_run_between_the_pieces_of_a_long_one() -> None:
    runner, worker = long_worker()
    long, answered = start(worker, [1] * 20)
    wait_until(lambda: runner.events == ["piece 0"])
    _, other = start(worker, [2, 3])
    wait_until(lambda: worker.queued_tokens == 2)
    runner.between.release()
    other.wait(1)
    assert not answered.answered
    runner.between.release(2)
    answered.wait(1)
    assert runner.events.index("launch 2") < runner.events.index("piece 2") < runner.events.index("launch 20")
    assert long.vector[0] == 20.0
    worker.close()


def test_a_second_long_input_waits_for_the_first() -> None:
    runner, worker = long_worker()
    starts = [start(worker, [number] * 20) for number in (1, 2)]
    runner.between.release(6)
    for (item, receiver), expected in zip(starts, (20.0, 40.0), strict=True):
        receiver.wait(1)
        assert item.vector[0] == expected
    pieces = [event for event in runner.events if event.startswith("piece")]
    assert pieces == ["piece 0", "piece 1", "piece 2"] * 2
    worker.close()


def test_a_long_input_that_fails_or_that_nobody_wants_fails_alone() -> None:
    runner, worker = long_worker()
    failing, failed = start(worker, [POISON] * 20)
    runner.between.release()
    failed.wait(1)
    assert isinstance(failing.error, EngineError)
    leaving, left = start(worker, [1] * 20)
    wait_until(lambda: runner.events.count("piece 0") == 2)
    worker.cancel_many([leaving.work.id])
    runner.between.release()
    left.wait(1)
    assert isinstance(leaving.error, Cancelled)
    assert embed(worker, [[5]])[0].vector[0] == 5.0
    assert worker.health() is None
    worker.close()


def test_a_long_input_is_told_when_the_worker_closes() -> None:
    runner, worker = long_worker()
    item, answered = start(worker, [1] * 20)
    wait_until(lambda: bool(runner.events))
    closing = threading.Thread(target=worker.close)
    closing.start()
    runner.between.release()
    answered.wait(1)
    closing.join(20)
    assert isinstance(item.error, ShuttingDown)


@pytest.mark.parametrize("broken", ["pack", "is_divisible", "launch", "collect"])
@pytest.mark.parametrize("error", [MemoryError, SystemExit])
def test_no_step_of_the_loop_loses_what_it_has_taken(
    runner: FakeRunner, monkeypatch: pytest.MonkeyPatch, broken: str, error: type[BaseException]
) -> None:
    """Also where what is raised is no `Exception`, and ends the loop."""
    worker = make_worker(runner)

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(*((module, "pack") if broken == "pack" else (runner, broken)), fail)
    for item in embed(worker, [[1], [2, 3], [4]]):
        assert isinstance(item.error, OutOfMemory if error is MemoryError else WorkerDead)
    worker.close()


def test_a_batch_in_flight_is_not_lost_when_landing_it_fails_in_the_loop_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = FakeRunner(is_asynchronous=True)
    worker = make_worker(runner, max_batch_tokens=4)
    monkeypatch.setattr(module.DeviceLoop, "_answer", lambda *arguments: 1 / 0)
    for item in embed(worker, [[1] * 3, [2] * 3, [3] * 3]):
        assert isinstance(item.error, WorkerDead)


def test_a_receiver_that_fails_does_not_hurt_the_others(worker: DeviceWorker) -> None:
    def failing(answers: list[Answer]) -> None:
        raise ValueError("broken receiver")

    other = Receiver()
    worker.submit_many([Asked([1]).work], failing)
    other.submit(worker, [Asked([2])])
    assert other.wait(1)[0].error is None
    assert embed(worker, [[3]])[0].error is None


def test_after_running_out_of_memory_batches_stay_smaller() -> None:
    runner = FakeRunner(max_tokens=40)
    worker = make_worker(runner)
    for start in (20, 50, 80):
        embed(worker, [[number] * 8 for number in range(start, start + 8)])
    assert worker.stats.out_of_memory == 1
    worker.close()


def test_when_the_device_is_lost_nothing_is_retried(runner: FakeRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = make_worker(runner)
    calls = []

    def lose(batch: object) -> None:
        calls.append(batch)
        raise DeviceLost("the GPU has fallen off the bus: restart the server")

    monkeypatch.setattr(runner, "launch", lose)
    items = embed(worker, [[1], [2], [3]])
    assert all(isinstance(item.error, DeviceLost) for item in items)
    assert len(calls) == 1
    assert "fallen off" in (worker.health() or "")
    worker.close()


def test_equal_long_inputs_that_fail_together_do_not_run_whole() -> None:
    runner, worker = long_worker()
    _, first = start(worker, [5])
    first.wait(1)
    runner.gate.clear()
    start(worker, [6])
    wait_until(lambda: runner.events.count("launch 1") == 2)
    twins, answered = [Asked([POISON] * 15), Asked([POISON] * 15)], Receiver()
    runner.longest_whole = 10
    worker._engine.queue._scheduler.batch_tokens = 64
    answered.submit(worker, twins)
    wait_until(lambda: worker.queued_tokens == 30)
    runner.gate.set()
    runner.between.release(9)
    answered.wait(2)
    assert all(isinstance(item.error, EngineError) for item in twins)
    assert "launch 15" not in runner.events
    worker.close()


def test_long_inputs_of_a_failed_batch_run_in_pieces_one_after_the_other() -> None:
    runner, worker = long_worker()
    runner.between.release(100)
    runner.gate.clear()
    start(worker, [6])
    wait_until(lambda: runner.events == ["launch 1"])
    worker._engine.queue._scheduler.batch_tokens = 64
    items, answered = [Asked([7] * 15), Asked([8] * 15), Asked([POISON])], Receiver()
    answered.submit(worker, items)
    wait_until(lambda: worker.queued_tokens == 31)
    runner.gate.set()
    answered.wait(3)
    assert [item.error is None for item in items] == [True, True, False]
    pieces = [event for event in runner.events if event.startswith("piece")]
    assert pieces == ["piece 0", "piece 1", "piece 2"] * 2
    worker.close()


def test_busy_time_of_overlapping_batches_is_counted_once() -> None:
    class Slow(FakeRunner):
        def _run(self, batch: object) -> None:
            time.sleep(0.05)
            super()._run(batch)

    worker = make_worker(Slow(is_asynchronous=True), max_batch_tokens=4)
    began = time.monotonic()
    embed(worker, [[1] * 3, [2] * 3, [3] * 3, [4] * 3])
    assert worker.stats.busy_seconds <= time.monotonic() - began
    worker.close()


def test_a_request_of_more_tokens_than_the_queue_is_not_tokenised_to_its_end(
    runner: FakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_worker(runner, max_queue_tokens=200)
    items = embed(worker, ["x" * 60] * 64 * 20)
    assert all(isinstance(item.error, TooLarge) for item in items)
    assert "over 200 tokens" in str(items[-1].error)
    worker.close()
