"""A process is ended when it is silent or unwell, and never for a pause of the one that watches it."""

from __future__ import annotations

import pytest

from inlay.distributed import watch as module
from inlay.distributed.watch import FIRST_WORD_SECONDS, LONGEST_LOOK, Watch


class FakeSupervisor:
    """Notes why its process was ended."""

    def __init__(self) -> None:
        self.restarts = 0
        self.reasons: list[str] = []

    def kill(self, reason: str) -> None:
        self.reasons.append(reason)


class Story:
    """Looks at a process, with a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stall_timeout: float) -> None:
        self.now = 0.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        self.supervisor = FakeSupervisor()
        self.watch = Watch(self.supervisor, stall_timeout)  # type: ignore[arg-type]

    def look(self, has_spoken: bool, times: int = 1, seconds: float = 1.0, why_unwell: str | None = None) -> None:
        for _ in range(times):
            self.now += seconds
            self.watch.note(has_spoken=has_spoken, why_unwell=why_unwell)


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> Story:
    return Story(monkeypatch, 10)


def test_a_process_that_falls_silent_is_ended(story: Story) -> None:
    story.look(True)
    story.look(False, 10)
    assert not story.supervisor.reasons
    story.look(False)
    assert story.supervisor.reasons == ["it has not spoken for 11 s"]


def test_one_that_speaks_now_and_then_is_left_alone(story: Story) -> None:
    for _ in range(5):
        story.look(True)
        story.look(False, 10)
    assert not story.supervisor.reasons


def test_a_pause_of_the_watcher_is_no_silence_of_others(story: Story) -> None:
    story.look(True)
    story.look(False, 2, seconds=1000)
    story.look(False, 2, seconds=LONGEST_LOOK + 0.1)
    story.look(False, 10)
    assert not story.supervisor.reasons
    story.look(False)
    assert story.supervisor.reasons


def test_a_new_process_may_take_longer_to_say_anything(story: Story) -> None:
    story.look(False, round(FIRST_WORD_SECONDS))
    assert not story.supervisor.reasons
    story.look(False)
    assert len(story.supervisor.reasons) == 1


def test_what_was_started_again_is_a_new_process(story: Story) -> None:
    story.look(True)
    story.look(False, 8)
    story.supervisor.restarts += 1
    story.look(False, round(FIRST_WORD_SECONDS))
    assert not story.supervisor.reasons


def test_the_last_words_of_one_are_not_the_first_of_the_next(story: Story) -> None:
    story.look(True)
    story.supervisor.restarts += 1
    story.look(True)  # what came between the look before and its end
    story.look(False, round(FIRST_WORD_SECONDS) - 1)
    assert not story.supervisor.reasons


def test_what_is_unwell_is_ended_with_its_reason(story: Story) -> None:
    story.look(True, why_unwell="a batch has run for 301 s")
    assert story.supervisor.reasons == ["a batch has run for 301 s"]
