"""What ends is started again, what cannot start is given up, and an end that was asked for is the last."""

from __future__ import annotations

import threading

import pytest
from waiting import until

from inlay.distributed import supervisor as module
from inlay.distributed.supervisor import MOST_FAILED_STARTS, Supervisor
from inlay.errors import ConfigError, InlayError
from inlay.types import Failure


class FakeChild:
    """Starts as it is told, and ends when it is told."""

    def __init__(self, started: object = True) -> None:
        self._started = started
        self.has_ended = threading.Event()
        if started is not True:
            self.has_ended.set()

    def started(self) -> object:
        return self._started

    def ended(self) -> str:
        self.has_ended.wait(30)
        return "signal 9 (Killed)"

    def kill(self) -> None:
        self.has_ended.set()

    close = terminate = kill


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)


class Kept:
    """A supervisor with children that start one after the other as is given; the last goes on."""

    def __init__(self, *starts: object) -> None:
        self.starts = list(starts)
        self.children: list[FakeChild] = []
        self.errors: list[InlayError] = []
        self.supervisor = Supervisor("engine-0", self._start, self.errors.append)  # type: ignore[arg-type]

    def _start(self) -> FakeChild:
        child = FakeChild(self.starts.pop(0) if len(self.starts) > 1 else self.starts[0])
        self.children.append(child)
        return child


def test_what_ends_is_started_again_however_often() -> None:
    kept = Kept(True)
    for number in range(3 * MOST_FAILED_STARTS):
        until(lambda: len(kept.children) == number + 1)  # noqa: B023
        kept.children[-1].has_ended.set()
    until(lambda: len(kept.children) == 3 * MOST_FAILED_STARTS + 1)
    assert kept.supervisor.restarts == 3 * MOST_FAILED_STARTS
    kept.supervisor.close()
    assert not kept.errors


def test_what_says_that_it_cannot_serve_is_given_up_with_its_reason() -> None:
    kept = Kept(Failure(ConfigError.code, "no such device"))
    until(lambda: kept.errors)
    assert isinstance(kept.errors[0], ConfigError)
    assert len(kept.children) == 1


@pytest.mark.parametrize("start", [False, Failure("engine_error", "no memory")])
def test_what_has_served_is_given_up_when_it_cannot_start_several_times_in_a_row(start: object) -> None:
    kept = Kept(True, start)
    until(lambda: kept.children)
    kept.children[0].has_ended.set()
    until(lambda: kept.errors)
    assert len(kept.children) == 1 + MOST_FAILED_STARTS
    assert f"{MOST_FAILED_STARTS} times" in kept.errors[0].message
    assert start is False or "no memory" in kept.errors[0].message


@pytest.mark.parametrize("error", [OSError("no descriptor"), RuntimeError("can't start new thread")])
def test_where_no_process_can_be_made_for_a_while_it_is_tried_again(error: Exception) -> None:
    kept = Kept(True)
    until(lambda: kept.children)
    make, tries = kept._start, iter([error] * (MOST_FAILED_STARTS - 1))

    def start() -> FakeChild:
        if (fault := next(tries, None)) is not None:
            raise fault
        return make()

    kept.supervisor._start = start  # type: ignore[assignment]
    kept.children[0].has_ended.set()
    until(lambda: len(kept.children) == 2)
    assert not kept.errors
    kept.supervisor.close()


def test_a_start_that_succeeds_forgets_those_that_failed() -> None:
    kept = Kept(True, *([False] * (MOST_FAILED_STARTS - 1)), True, *([False] * (MOST_FAILED_STARTS - 1)), True)
    for number in (0, MOST_FAILED_STARTS):
        until(lambda: len(kept.children) == number + 1)  # noqa: B023
        kept.children[-1].has_ended.set()
    until(lambda: len(kept.children) == 2 * MOST_FAILED_STARTS + 1)
    assert not kept.errors
    kept.supervisor.close()


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_an_end_that_was_asked_for_is_the_last(end: str) -> None:
    kept = Kept(True)
    until(lambda: kept.children)
    getattr(kept.supervisor, end)()
    assert kept.supervisor.wait(30)
    assert len(kept.children) == 1
    assert kept.supervisor.restarts == 0
