"""Exact search: the best rows of a corpus for some queries, by cosine.

In: query vectors. Out: for each the rows with the highest scores, best first. The matrix stays mapped and is
read once, block by block, for all queries of a call; a block's scores are looked through while they are in
the processor's cache. Products are numpy's BLAS, on all cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from inlay.corpus.files.part import Part
from inlay.types import FloatArray, IntArray

BLOCK_BYTES = 32 << 20  # of vectors: long enough for BLAS's threads, short enough for the scores to stay near
WIDENED_ROWS = 2048  # of float16, made float32 at a time

Mask = npt.NDArray[np.bool_]


class Found(NamedTuple):
    """The best rows for one query, best first; equal scores in the order of the rows."""

    rows: IntArray  # [k]
    scores: FloatArray  # [k], cosines


def search(parts: list[Part], queries: FloatArray, top_k: int, mask: Mask | None = None) -> list[Found]:
    """For each query [q, width] its `top_k` best rows; `mask` [rows of the corpus] says which may be found."""
    units = unit_rows(queries)
    best = [_Best(top_k) for _ in units]
    for first_row, vectors, scales in _blocks(parts):
        last_row = first_row + len(vectors)
        if mask is not None and not mask[first_row:last_row].any():
            continue
        scores = _scores(vectors, units)  # [q, block]
        with np.errstate(over="ignore", invalid="ignore"):  # a broken scale; who gives out hits proves them
            scores *= scales
        if mask is not None:
            scores[:, ~mask[first_row:last_row]] = -np.inf
        for one, row_scores in zip(best, scores, strict=True):
            one.offer(first_row, row_scores)
    return [one.found() for one in best]


def score_rows(parts: list[Part], unit: FloatArray, rows: IntArray) -> FloatArray:
    """Cosines of a unit vector with some rows, ascending: what `search` gives for them, but for rounding."""
    scores = np.empty(len(rows), dtype=np.float32)
    for part in parts:
        begin, end = np.searchsorted(rows, [part.first_row, part.first_row + len(part.vectors)])
        if begin < end:
            own = rows[begin:end] - part.first_row
            part.check_map()
            with np.errstate(over="ignore", invalid="ignore"):
                scores[begin:end] = (part.vectors[own].astype(np.float32) @ unit) * part.scales[own]
    return scores


def unit_rows(vectors: FloatArray) -> FloatArray:
    """Rows of length one; those without a length stay zero."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)  # squares would leave float32
    units: FloatArray = np.ascontiguousarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)
    return units


def cosine(one: FloatArray, other: npt.NDArray[Any]) -> float:
    """Of two vectors, in float64; 0 where one has no length."""
    first, second = one.astype(np.float64), other.astype(np.float64)
    lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / lengths if lengths > 0 else 0.0


def _blocks(parts: list[Part]) -> Iterator[tuple[int, npt.NDArray[Any], FloatArray]]:
    """First row, vectors and scales of each block."""
    for part in parts:
        size = max(1, BLOCK_BYTES // (part.vectors.itemsize * part.vectors.shape[1]))
        for start in range(0, len(part.vectors), size):
            end = start + size
            part.check_map()
            yield part.first_row + start, part.vectors[start:end], part.scales[start:end]


def _scores(vectors: npt.NDArray[Any], units: FloatArray) -> FloatArray:
    """Dot products [q, block]."""
    if vectors.dtype == np.float32:
        return _dot(vectors, units)
    pieces = range(0, len(vectors), WIDENED_ROWS)
    return np.concatenate([_dot(vectors[at : at + WIDENED_ROWS].astype(np.float32), units) for at in pieces], axis=1)


def _dot(vectors: npt.NDArray[Any], units: FloatArray) -> FloatArray:
    if len(units) == 1:
        vector: FloatArray = vectors @ units[0]  # BLAS has a quicker way for it
        return vector[None]
    product: FloatArray = units @ vectors.T
    return product


class _Best:
    """The best so far for one query."""

    def __init__(self, top_k: int) -> None:
        self._top_k = top_k
        self._rows = np.empty(0, dtype=np.int64)
        self._scores = np.empty(0, dtype=np.float32)
        self._threshold = np.float32(-np.inf)  # what a row must be better than

    def offer(self, first_row: int, scores: FloatArray) -> None:
        """Scores of consecutive rows."""
        places = np.flatnonzero(scores > self._threshold)
        if len(places) == 0:
            return
        rows = np.concatenate([self._rows, places + first_row])
        merged = np.concatenate([self._scores, scores[places]])
        if len(merged) > self._top_k:
            kept = _top(merged, self._top_k)
            rows, merged = rows[kept], merged[kept]
        if len(merged) == self._top_k:
            self._threshold = merged.min()
        self._rows, self._scores = rows, merged

    def found(self) -> Found:
        order = np.lexsort((self._rows, -self._scores))
        return Found(self._rows[order], self._scores[order])


def _top(scores: FloatArray, top_k: int) -> IntArray:
    """Places of the best, in their order; among equals the earlier."""
    border = np.partition(scores, len(scores) - top_k)[len(scores) - top_k]
    above = np.flatnonzero(scores > border)
    equal = np.flatnonzero(scores == border)[: top_k - len(above)]
    return np.sort(np.concatenate([above, equal]))
