"""Indexes of small codes: what they find is scored again by the corpus's own vectors.

In: a corpus, and codes of its vectors that FAISS compares. Out: the best rows with cosines, as exact search gives them
for the rows that are looked at. The codes are in memory; the vectors stay where the corpus has them, mapped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from inlay.corpus.corpus import Corpus
from inlay.corpus.search.exact import score_rows
from inlay.types import FloatArray, IntArray

PER_HITS = 10


class RescoredIndex(ABC):
    """Looks like an index of FAISS to whoever builds and searches it."""

    def __init__(self, corpus: Corpus, codes: Any, rescored: int) -> None:  # noqa: ANN401 - FAISS has no types
        self.rescored = rescored  # rows that are scored again for every ten that are asked for
        self.codes = codes
        self._corpus = corpus

    @abstractmethod
    def write(self, path: Path) -> None: ...

    @abstractmethod
    def add(self, units: FloatArray) -> None: ...

    @abstractmethod
    def find(self, units: FloatArray, number: int) -> IntArray:
        """The rows [q, number] whose codes are nearest; −1 where there are no more."""

    def search(self, units: FloatArray, top_k: int) -> tuple[FloatArray, IntArray]:
        """Cosines and rows [q, ≤ top_k], best first; equal scores in the order of the rows."""
        number = min(max(self.rescored, -(-top_k // PER_HITS) * self.rescored), self.codes.ntotal)
        best = [
            self._best(unit, np.sort(rows), top_k) for unit, rows in zip(units, self.find(units, number), strict=True)
        ]
        return np.array([scores for scores, _ in best]), np.array([rows for _, rows in best])

    def _best(self, unit: FloatArray, rows: IntArray, top_k: int) -> tuple[FloatArray, IntArray]:
        scores = score_rows(self._corpus.parts, unit, rows)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return scores[order], rows[order]
