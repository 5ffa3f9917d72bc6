"""Ranges of the arena: never two in one place, and all room comes back."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from inlay.engine.arena import Arena


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=40))
def test_ranges_never_overlap_and_room_comes_back(steps: list[tuple[bool, int]]) -> None:
    arena = Arena(2, 100, 4, torch.float32, torch.device("cpu"))
    taken: list[tuple[int, int]] = []
    for is_taking, length in steps:
        if is_taking or not taken:
            start = arena.take(length)
            if start is not None:
                assert all(start + length <= other or other + size <= start for other, size in taken)
                assert start + length <= 100
                taken.append((start, length))
        else:
            arena.give_back(*taken.pop(length % len(taken)))
    for start, length in taken:
        arena.give_back(start, length)
    assert arena.take(100) == 0


def test_a_range_that_is_too_long_finds_no_room() -> None:
    arena = Arena(1, 10, 4, torch.float32, torch.device("cpu"))
    assert arena.take(6) == 0
    assert arena.take(5) is None
    assert arena.take(4) == 6
    assert [x.shape for x in arena.layer(0)] == [(10, 4), (10, 4)]
