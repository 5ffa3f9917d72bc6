"""Batches are run against an endpoint that answers each body with itself, or with what it is told to."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_directories import ENDPOINT, add_batch, add_file, line_of, results_of

from inlay.errors import InlayError, InvalidInput, NotReady, Overloaded, TooLarge, WorkerDead
from inlay.jobs import run, runner
from inlay.jobs.answers import LineReply
from inlay.jobs.batch import Batch, Status
from inlay.jobs.directory import JobDirectory
from inlay.jobs.runner import JobRunner

Answer = Callable[[str, Sequence[bytes]], Awaitable[list[LineReply]]]
MIB = 1 << 20


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SHORTEST_PAUSE", 0.001)
    monkeypatch.setattr(run, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(runner, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(run, "SLICE_LINES", 4)
    monkeypatch.setattr(run, "FEWEST_LINES", 4)


class Endpoint:
    """Counts what it is asked, and does what `react` says before it answers."""

    def __init__(self, react: Callable[[list[str]], object] = lambda inputs: None) -> None:
        self.asked: Counter[str] = Counter()
        self._react = react

    async def __call__(self, endpoint: str, bodies: Sequence[bytes]) -> list[LineReply]:
        assert endpoint == ENDPOINT
        inputs = [json.loads(body)["input"] for body in bodies]
        found = self._react(inputs)
        if isinstance(found, list):
            return found
        await asyncio.sleep(0)
        self.asked.update(inputs)
        return [LineReply(200, json.dumps({"got": one}).encode(), num_tokens=2, cached_tokens=1) for one in inputs]


async def run_jobs(directory: JobDirectory, endpoint: Answer, until: Callable[[], bool]) -> None:
    """Until something is so; then the server is stopped."""
    jobs = JobRunner(directory, endpoint, MIB)
    jobs.start()
    try:
        async with asyncio.timeout(20):
            while not until():  # noqa: ASYNC110 - what is waited for is in a file
                await asyncio.sleep(0.002)
    finally:
        await jobs.close()


def ended(directory: JobDirectory) -> Callable[[], bool]:
    return lambda: not directory.store.unended()


def finish(path: Path, endpoint: Answer, batch: Batch) -> Batch:
    """Open the directory, run what is there to its end, and give the batch."""
    directory = JobDirectory(path, MIB)
    found = []

    def is_ended() -> bool:
        found[:] = [directory.store.batch(batch.id)]
        return found[0].status.is_end

    asyncio.run(run_jobs(directory, endpoint, is_ended))
    return found[0]


def start(path: Path, rows: Sequence[bytes], max_bytes: int = MIB, seconds: int = 3600) -> tuple[JobDirectory, Batch]:
    directory = JobDirectory(path, max_bytes)
    return directory, add_batch(directory, rows, seconds)


def reread(path: Path) -> JobDirectory:
    return JobDirectory(path, MIB)


def test_each_line_is_answered_in_order_and_counted(tmp_path: Path) -> None:
    directory, batch = start(tmp_path, [line_of(f"id{i}") for i in range(10)])
    directory.close()
    endpoint = Endpoint()
    done = finish(tmp_path, endpoint, batch)
    assert done.status is Status.COMPLETED
    assert (done.total, done.progress.completed, done.progress.failed) == (10, 10, 0)
    assert (done.progress.num_tokens, done.progress.cached_tokens) == (20, 10)
    assert endpoint.asked == Counter(f"id{i}" for i in range(10))
    directory = reread(tmp_path)
    rows = [json.loads(row) for row in directory.path_of(batch.output_file_id).read_text().splitlines()]
    assert [row["custom_id"] for row in rows] == [f"id{i}" for i in range(10)]
    assert rows[3]["response"]["body"] == {"got": "id3"}
    assert rows[3]["response"]["status_code"] == 200
    assert rows[3]["error"] is None
    file = directory.store.file(batch.output_file_id)
    assert file is not None
    assert file.num_bytes == directory.path_of(file.id).stat().st_size
    assert directory.store.file(batch.error_file_id) is None  # it has no line
    directory.close()


def test_a_line_at_fault_costs_only_itself(tmp_path: Path) -> None:
    directory, batch = start(tmp_path, [line_of("a"), line_of("b"), line_of("c")])
    directory.close()

    def react(inputs: list[str]) -> list[LineReply]:
        good = LineReply(200, b"{}")
        return [LineReply(400, b'{"error": 1}', error=InvalidInput("b")) if one == "b" else good for one in inputs]

    done = finish(tmp_path, Endpoint(react), batch)
    assert done.status is Status.COMPLETED
    assert (done.progress.completed, done.progress.failed) == (2, 1)
    directory = reread(tmp_path)
    (row,) = [json.loads(line) for line in directory.path_of(batch.error_file_id).read_text().splitlines()]
    assert (row["custom_id"], row["response"]["status_code"], row["response"]["body"]) == ("b", 400, {"error": 1})
    directory.close()


def test_a_file_that_cannot_be_run_fails_with_the_lines_at_fault(tmp_path: Path) -> None:
    directory, batch = start(tmp_path, [line_of("a"), b"{\n"])
    directory.close()
    endpoint = Endpoint()
    done = finish(tmp_path, endpoint, batch)
    assert done.status is Status.FAILED
    assert [one.line for one in done.problems] == [2]
    assert not endpoint.asked


def test_what_is_refused_for_now_is_asked_again_until_it_is_answered(tmp_path: Path) -> None:
    directory, batch = start(tmp_path, [line_of(f"id{i}") for i in range(6)])
    directory.close()
    refusals = [Overloaded("full", retry_after=1.0), WorkerDead("dead"), Overloaded("full")]

    def react(inputs: list[str]) -> list[LineReply] | None:
        return [LineReply(429, b"{}", error=refusals.pop())] * len(inputs) if refusals else None

    endpoint = Endpoint(react)
    assert finish(tmp_path, endpoint, batch).progress.completed == 6
    assert set(endpoint.asked.values()) == {1}


def test_lines_that_are_too_much_together_are_asked_for_with_fewer_at_a_time(tmp_path: Path) -> None:
    directory, batch = start(tmp_path, [line_of(f"id{i}") for i in range(8)])
    directory.close()

    def react(inputs: list[str]) -> list[LineReply] | None:
        if len(inputs) > 1 or inputs == ["id5"]:
            return [LineReply(413, b"{}", error=TooLarge("too much for the queue"))] * len(inputs)
        return None

    done = finish(tmp_path, Endpoint(react), batch)
    assert (done.progress.completed, done.progress.failed) == (7, 1)  # alone id5 is too much, too


@pytest.mark.parametrize(
    ("error", "sizes"),
    [(WorkerDead("dead"), [4, 4, 4]), (NotReady("loads"), [4, 4, 4]), (Overloaded("full"), [4, 2, 1, 2, 1])],
)
def test_only_a_queue_that_is_full_makes_groups_smaller_and_for_as_long_as_it_is(
    error: InlayError, sizes: list[int], tmp_path: Path
) -> None:
    directory, batch = start(tmp_path, [line_of(f"id{i}") for i in range(4)])
    directory.close()
    asked: list[int] = []

    def react(inputs: list[str]) -> list[LineReply] | None:
        asked.append(len(inputs))
        return [LineReply(503, b"{}", error=error)] * len(inputs) if len(asked) <= 2 else None

    assert finish(tmp_path, Endpoint(react), batch).progress.completed == 4
    assert asked == sizes


def test_a_cancelled_batch_ends_with_what_was_answered_and_says_so_of_the_rest(tmp_path: Path) -> None:
    directory, batch = start(tmp_path, [line_of(f"id{i}") for i in range(40)])

    def react(inputs: list[str]) -> None:
        if "id12" in inputs:
            directory.store.update(batch.id, lambda found: found.to(Status.CANCELLING))

    endpoint = Endpoint(react)
    asyncio.run(run_jobs(directory, endpoint, ended(directory)))
    directory = reread(tmp_path)
    done = directory.store.batch(batch.id)
    assert done is not None
    assert done.status is Status.CANCELLED
    assert 0 < done.progress.completed < 40
    assert done.progress.completed + done.progress.failed == 40
    results = results_of(directory, done)
    assert len(results) == 40
    assert {len(rows) for rows in results.values()} == {1}
    assert results["id39"][0]["error"]["code"] == "batch_cancelled"
    assert results["id39"][0]["response"] is None
    directory.close()


def test_a_batch_whose_time_is_over_ends_as_expired(tmp_path: Path) -> None:
    directory, batch = start(tmp_path, [line_of("a"), line_of("b")], seconds=0)
    directory.close()
    endpoint = Endpoint()
    done = finish(tmp_path, endpoint, batch)
    assert done.status is Status.EXPIRED
    assert not endpoint.asked
    directory = reread(tmp_path)
    assert {rows[0]["error"]["code"] for rows in results_of(directory, done).values()} == {"batch_expired"}
    directory.close()


def test_a_batch_that_finds_no_room_fails_and_keeps_what_it_has(tmp_path: Path) -> None:
    rows = [line_of(f"id{i}") for i in range(20)]
    directory = JobDirectory(tmp_path, sum(map(len, rows)) + 2000)
    batch = add_batch(directory, rows)
    asyncio.run(run_jobs(directory, Endpoint(), ended(directory)))
    directory = reread(tmp_path)
    done = directory.store.batch(batch.id)
    assert done is not None
    assert done.status is Status.FAILED
    assert [one.code for one in done.problems] == ["storage_full"]
    assert done.progress.completed > 0
    assert directory.path_of(batch.output_file_id).stat().st_size == done.progress.output_bytes
    directory.close()


def test_a_disk_that_cannot_be_written_for_now_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, batch = start(tmp_path, [line_of(f"id{i}") for i in range(10)])
    directory.close()
    real, faults = run.ResultFiles.add, [OSError(28, "No space left on device")]

    def add(self: run.ResultFiles, output: list[bytes], errors: list[bytes]) -> tuple[int, int]:
        if len(output) and faults and self._output.tell():
            raise faults.pop()
        return real(self, output, errors)

    monkeypatch.setattr(run.ResultFiles, "add", add)
    done = finish(tmp_path, Endpoint(), batch)
    assert (done.status, done.progress.completed) == (Status.COMPLETED, 10)
    directory = reread(tmp_path)
    assert {len(rows) for rows in results_of(directory, done).values()} == {1}
    directory.close()


def test_an_input_that_is_gone_ends_the_batch_with_the_reason(tmp_path: Path) -> None:
    directory, batch = start(tmp_path, [line_of("a")])
    directory.path_of(batch.input_file_id).unlink()
    directory.close()
    done = finish(tmp_path, Endpoint(), batch)
    assert (done.status, [one.code for one in done.problems]) == (Status.FAILED, ["file_not_found"])


def test_a_directory_that_is_away_is_waited_for(tmp_path: Path) -> None:
    directory, batch = start(tmp_path, [line_of("a")])
    away = tmp_path / "away"
    (tmp_path / "files").rename(away)
    looks = 0

    def is_ended() -> bool:
        nonlocal looks
        looks += 1
        if looks == 20:
            away.rename(tmp_path / "files")
        return not directory.store.unended()

    asyncio.run(run_jobs(directory, Endpoint(), is_ended))
    done = reread(tmp_path).store.batch(batch.id)
    assert done is not None
    assert done.status is Status.COMPLETED


def test_slices_grow_while_they_are_quick_and_shrink_when_they_are_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "FEWEST_LINES", 4)
    monkeypatch.setattr(run, "SLICE_LINES", 64)
    sizes: list[int] = []
    directory, _ = start(tmp_path, [line_of(f"id{i}") for i in range(400)])
    asyncio.run(run_jobs(directory, Endpoint(lambda inputs: sizes.append(len(inputs))), ended(directory)))
    assert sizes[0] == 4
    assert max(sizes) == 64
    monkeypatch.setattr(run, "LONGEST_SLICE", 0.0)
    monkeypatch.setattr(run, "SHORTEST_SLICE", 0.0)
    sizes.clear()
    directory, _ = start(tmp_path / "slow", [line_of(f"id{i}") for i in range(40)])
    asyncio.run(run_jobs(directory, Endpoint(lambda inputs: sizes.append(len(inputs))), ended(directory)))
    assert min(sizes) == 1


def test_a_fault_of_our_own_ends_the_batch_and_says_so(tmp_path: Path) -> None:
    directory, batch = start(tmp_path, [line_of("a")])
    directory.close()

    def react(inputs: list[str]) -> None:
        raise ZeroDivisionError

    done = finish(tmp_path, Endpoint(react), batch)
    assert (done.status, [one.code for one in done.problems]) == (Status.FAILED, ["internal_error"])


@settings(max_examples=15, deadline=None)
@given(stops=st.lists(st.integers(1, 30), max_size=4), torn=st.binary(max_size=30))
def test_wherever_a_server_stops_each_line_is_answered_once_and_none_that_counted_is_computed_again(
    tmp_path_factory: pytest.TempPathFactory, stops: list[int], torn: bytes
) -> None:
    """A stop leaves what is under way, and bytes at the ends of the files that no record counts."""
    path = tmp_path_factory.mktemp("stops")
    directory, batch = start(path, [line_of(f"id{i}") for i in range(30)])
    counted: set[str] = set()
    endpoint = Endpoint()
    for stop in sorted(stops):

        def is_so_far(directory: JobDirectory = directory, stop: int = stop) -> bool:
            found = directory.store.batch(batch.id)
            return found is None or found.status.is_end or found.progress.completed >= stop

        asyncio.run(run_jobs(directory, endpoint, is_so_far))
        directory = reread(path)
        before = directory.store.batch(batch.id)
        assert before is not None
        written = directory.path_of(batch.output_file_id).read_bytes()[: before.progress.output_bytes]
        counted = {json.loads(row)["custom_id"] for row in written.splitlines()}
        if not before.status.is_end:
            with directory.path_of(batch.output_file_id).open("ab") as file:
                file.write(torn)
        endpoint.asked = Counter()
    asyncio.run(run_jobs(directory, endpoint, ended(directory)))
    directory = reread(path)
    done = directory.store.batch(batch.id)
    assert done is not None
    assert done.status is Status.COMPLETED
    assert not counted & endpoint.asked.keys()
    results = results_of(directory, done)
    assert results.keys() == {f"id{i}" for i in range(30)}
    assert {len(rows) for rows in results.values()} == {1}
    used = sum(file.stat().st_size for file in (path / "files").iterdir())
    assert directory.used_bytes == used
    directory.close()


def test_batches_take_turns(tmp_path: Path) -> None:
    directory, first = start(tmp_path, [line_of(f"first{i}") for i in range(80)])
    second = add_batch(directory, [line_of("second")])
    order: list[str] = []

    def react(inputs: list[str]) -> None:
        order.extend(inputs)

    asyncio.run(run_jobs(directory, Endpoint(react), ended(directory)))
    assert order.index("second") < 80
    assert first.id != second.id


def test_files_whose_time_is_over_go_but_for_those_a_batch_reads(tmp_path: Path) -> None:
    directory = JobDirectory(tmp_path, MIB)
    old, new = add_file(directory, b"x", seconds=-1), add_file(directory, b"x")
    runner_ = JobRunner(directory, Endpoint(), MIB)
    runner_._remove_old()
    assert directory.store.file(old.id) is None
    assert directory.store.file(new.id) is not None
    directory.close()
