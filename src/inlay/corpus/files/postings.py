"""Sparse outputs turned round: for each token the rows that have it, with its weight there.

sparse_tokens.npy   [tokens] ids, ascending
sparse_starts.npy   [tokens + 1] where each one's rows begin
sparse_rows.npy     [total] rows of the part
sparse_weights.npy  [total] float32
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inlay.corpus.files.ragged import Ragged
from inlay.types import FloatArray

Array = npt.NDArray[Any]
POSTINGS = tuple(f"sparse_{name}.npy" for name in ("tokens", "starts", "rows", "weights"))


def write_postings(directory: Path, rows: Ragged) -> None:
    """From the sparse outputs of all rows of a part."""
    order = np.argsort(rows.values["id"], kind="stable")
    tokens, starts = np.unique(rows.values["id"][order], return_index=True)
    of_each = np.repeat(np.arange(len(rows), dtype=np.uint32), rows.lengths)
    arrays = (tokens, np.append(starts, len(order)), of_each[order], rows.values["weight"][order])
    for name, array in zip(POSTINGS, arrays, strict=True):
        with (directory / name).open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())


class Postings:
    """Of one part, mapped. Whoever opens them has proved the files: a wrong row would be a candidate less."""

    def __init__(self, directory: Path, num_rows: int) -> None:
        self._num_rows = num_rows
        self._tokens, self._starts = (np.load(directory / name, allow_pickle=False) for name in POSTINGS[:2])
        self._rows, self._weights = (
            np.load(directory / name, mmap_mode="r", allow_pickle=False) for name in POSTINGS[2:]
        )

    def scores(self, query: Array) -> FloatArray:
        """[rows], the sum of the products of the weights that a row shares with the query's (`SPARSE_ROW`)."""
        scores = np.zeros(self._num_rows, dtype=np.float32)
        for token, weight in query.tolist():
            at = int(np.searchsorted(self._tokens, token))
            if at < len(self._tokens) and self._tokens[at] == token:
                own = slice(int(self._starts[at]), int(self._starts[at + 1]))
                scores[self._rows[own]] += weight * self._weights[own]
        return scores
