"""What lies on a GPU after a batch was staged: all of it, in its place, and nothing of the batch before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.engine import staging as module
from inlay.engine.staging import TOKENS, Given, Staged, Staging, shape_for, shapes
from inlay.ops.layout import TILE

CPU = torch.device("cpu")


def stage(staging: Staging, lengths: list[int], *, has_types: bool = False) -> Staged:
    ids = np.arange(1, sum(lengths) + 1)
    positions = np.concatenate([np.arange(length) for length in lengths])
    offsets = np.array([0, *np.cumsum(lengths)])
    return staging.stage(Given(ids, positions, ids % 2 if has_types else None, offsets, offsets[1:] - 1))


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(1, 200), min_size=1, max_size=40), min_size=1, max_size=4), st.booleans())
def test_every_batch_is_there_and_what_fills_it_up_belongs_to_no_sequence(
    batches: list[list[int]], has_types: bool
) -> None:
    staging = Staging(CPU)
    for lengths in batches:
        staged = stage(staging, lengths, has_types=has_types)
        views, total, count = staged.views, sum(lengths), len(lengths)
        assert views.ids[:total].tolist() == list(range(1, total + 1))
        assert views.positions[:total].tolist() == [place for length in lengths for place in range(length)]
        assert views.cu_seqlens[: count + 1].tolist() == [0, *np.cumsum(lengths)]
        assert views.rows[:count].tolist() == [end - 1 for end in np.cumsum(lengths)]
        assert views.ids[total:].eq(0).all()
        assert views.positions[total:].eq(0).all()
        assert views.cu_seqlens[count:].eq(total).all()
        assert views.rows[count:].lt(len(views.ids)).all()
        assert (views.types is not None) is has_types
        if views.types is not None:
            assert views.types[:total].tolist() == [number % 2 for number in range(1, total + 1)]
        tiles = [(number, first) for number, length in enumerate(lengths) for first in range(0, length, TILE)]
        assert [tuple(tile) for tile in views.tiles[: len(tiles)].tolist()] == tiles
        assert views.tiles[len(tiles) :].eq(-1).all()
        assert staged.layout.offsets == [0, *np.cumsum(lengths)]


def test_batches_of_one_shape_lie_in_the_same_place() -> None:
    staging = Staging(CPU)
    first, second, other = stage(staging, [3, 4]), stage(staging, [9]), stage(staging, [40])
    assert first.views is second.views
    assert other.views.ids.data_ptr() == first.views.ids.data_ptr()
    assert other.views is not first.views


def test_a_batch_larger_than_the_buffer_has_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CAPACITY", 5000)
    staging = Staging(CPU)
    kept = stage(staging, [5])
    large = stage(staging, [30_000])
    assert large.views.ids.tolist() == list(range(1, 30_001))
    assert kept.views.ids[:5].tolist() == [1, 2, 3, 4, 5]


@given(st.integers(1, 40_000), st.integers(1, 2000))
def test_a_shape_holds_its_batch_and_is_not_much_larger(num_tokens: int, num_sequences: int) -> None:
    shape = shape_for(num_tokens, min(num_sequences, num_tokens))
    if shape is not None:
        assert shape in shapes()
        assert num_tokens <= shape.tokens
        assert min(num_sequences, num_tokens) <= shape.sequences
        assert shape.tokens <= max(module.MOST_FILLED * num_tokens, module.ALWAYS_FILLED)


def test_every_size_has_a_shape_where_there_are_few_sequences() -> None:
    for tokens in range(1, TOKENS[-1], 7):
        assert shape_for(tokens, 1) is not None
