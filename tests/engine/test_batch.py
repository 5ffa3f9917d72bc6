from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from running import sequence_of

from inlay.engine.batch import pack


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=20))
def test_each_sequence_has_its_place_and_equal_ones_share_it(lists: list[list[int]]) -> None:
    batch = pack([sequence_of(ids, index) for index, ids in enumerate(lists)])
    assert batch.num_tokens == sum(map(len, {tuple(ids) for ids in lists}))
    assert sorted(sequence.work.id for sequence in batch.sequences) == list(range(len(lists)))
    for sequence, row in zip(batch.sequences, batch.rows, strict=True):
        span = slice(batch.offsets[row], batch.offsets[row + 1])
        assert batch.ids[span].tolist() == lists[sequence.work.id]
        assert batch.positions[span].tolist() == list(range(sequence.num_tokens))
    assert (np.diff(np.diff(batch.offsets)) >= 0).all()


def test_pairs_of_equal_ids_that_are_parted_elsewhere_run_apart() -> None:
    pairs = [sequence_of([1, 2, 3, 4], number) for number in range(3)]
    for pair, types in zip(pairs, ([0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]), strict=True):
        pair.types = np.array(types)
    batch = pack(pairs)
    assert batch.rows == [0, 1, 0]
    assert batch.types is not None
    assert batch.types.tolist() == [0, 0, 1, 1, 0, 1, 1, 1]
