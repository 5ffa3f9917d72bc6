from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from running import sequence_of

from inlay.engine.batch import pack


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=20), min_size=1, max_size=20))
def test_sequences_lie_end_to_end_with_positions_of_their_own(lists: list[list[int]]) -> None:
    batch = pack([sequence_of(ids, index) for index, ids in enumerate(lists)])
    assert batch.num_tokens == sum(map(len, lists))
    for number, sequence in enumerate(batch.sequences):
        span = slice(batch.offsets[number], batch.offsets[number + 1])
        assert batch.ids[span].tolist() == lists[sequence.item.index]
        assert batch.positions[span].tolist() == list(range(sequence.num_tokens))
    assert (np.diff(np.diff(batch.offsets)) >= 0).all()
