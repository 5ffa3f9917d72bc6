"""What is expected of a batch is what batches of its size took."""

from __future__ import annotations

import pytest

from inlay.engine.pace import Pace


def test_sizes_have_a_pace_of_their_own() -> None:
    pace = Pace()
    assert pace.expected_seconds(1000) == 0
    pace.note(1000, 0.01)
    pace.note(20, 0.004)
    assert pace.expected_seconds(900) == pytest.approx(0.009)
    assert pace.expected_seconds(16) == pytest.approx(0.0032)
    assert pace.expected_seconds(5000) == 0


def test_what_is_new_counts_more_and_one_outlier_little() -> None:
    pace = Pace()
    for _ in range(20):
        pace.note(64, 0.1)
        pace.note_forming(0.002)
    pace.note(64, 1.0)
    assert 0.1 < pace.expected_seconds(64) < 0.4
    for _ in range(20):
        pace.note(64, 0.2)
    assert pace.expected_seconds(64) == pytest.approx(0.2, rel=0.01)
    assert pace.forming_seconds == pytest.approx(0.002, rel=0.01)
