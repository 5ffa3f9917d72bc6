"""Rows of a batch by their adapters, checked against a list of every row's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inlay.models.adapter_rows import AdapterRows, Run, all_rows

Segments = list[tuple[str, int]]  # adapter, tokens
SEGMENTS = st.lists(st.tuples(st.sampled_from(["", "a", "b"]), st.integers(1, 5)), min_size=1, max_size=12)


def by_row(runs: tuple[Run, ...], count: int) -> list[str]:
    """The adapter of each row; every run must have one, and lie behind the one before."""
    found, end = [""] * count, 0
    for run in runs:
        assert run.adapter
        assert end <= run.rows.start < run.rows.stop <= count
        end = run.rows.stop
        found[run.rows] = [run.adapter] * (end - run.rows.start)
    return found


@given(SEGMENTS, st.integers(0, 3), st.integers(0, 6))
def test_every_row_has_the_adapter_of_its_sequence(segments: Segments, new: int, filled: int) -> None:
    new = min(new, len(segments) - 1)
    offsets = [0]
    for _, tokens in segments:
        offsets.append(offsets[-1] + tokens)
    names = [name for name, _ in segments]
    rows = AdapterRows.of(names, offsets, offsets[-1] + filled, new)
    assert (rows is None) == (not any(names))
    if rows is None:
        return
    every = [name for name, tokens in segments for _ in range(tokens)]
    assert by_row(rows.runs_of(offsets[-1] + filled), offsets[-1] + filled) == every + [""] * filled
    answered = names[new:]
    if len(answered) < offsets[-1] + filled:
        assert by_row(rows.runs_of(len(answered)), len(answered)) == answered


def test_of_a_part_of_one_sequence_all_rows_are_the_adapters() -> None:
    assert all_rows("a")(7) == (Run("a", slice(0, 7)),)
