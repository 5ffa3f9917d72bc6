"""Packs sequences end to end. No padding: a batch costs what its tokens cost."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from inlay.types import Batch, Sequence


def pack(sequences: list[Sequence]) -> Batch:
    """One `Batch`, ordered by length, so that the attention kernels find equal lengths side by side."""
    ordered = sorted(sequences, key=lambda sequence: sequence.num_tokens)
    lengths = [sequence.num_tokens for sequence in ordered]
    return Batch(
        sequences=ordered,
        ids=np.concatenate([sequence.ids for sequence in ordered]),
        positions=np.concatenate([np.arange(length, dtype=np.int64) for length in lengths]),
        offsets=np.array([0, *accumulate(lengths)], dtype=np.int64),
    )
