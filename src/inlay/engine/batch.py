"""Packs sequences end to end. No padding: a batch costs what its different tokens cost."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from inlay.types import Batch, Sequence


def pack(sequences: list[Sequence]) -> Batch:
    """One `Batch`, ordered by length, so that attention finds equal lengths side by side; equal ids run once."""
    ordered = sorted(sequences, key=lambda sequence: sequence.num_tokens)
    row_of: dict[bytes, int] = {}
    rows = [row_of.setdefault(sequence.ids.tobytes(), len(row_of)) for sequence in ordered]
    unique = [np.frombuffer(ids, dtype=np.int64) for ids in row_of]
    lengths = [len(ids) for ids in unique]
    return Batch(
        sequences=ordered,
        rows=np.array(rows, dtype=np.int64),
        ids=np.concatenate(unique),
        positions=np.concatenate([np.arange(length, dtype=np.int64) for length in lengths]),
        offsets=np.array([0, *accumulate(lengths)], dtype=np.int64),
    )
