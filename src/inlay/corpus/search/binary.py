"""A bit for each component: the rows whose bits differ least from the query's, scored again by their vectors.

In: a corpus's vectors. Out: the best rows with cosines, as exact search gives them for the rows that it looks at. It
holds a thirty-second of the vectors' bytes in memory; FAISS compares bits, and the vectors stay where the corpus has
them, mapped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inlay.corpus.corpus import Corpus
from inlay.corpus.search.exact import score_rows
from inlay.types import FloatArray, IntArray

LEAST_RESCORED = 40  # rows of a search for 10, scored again by their vectors
PER_HITS = 10


class BinaryIndex:
    """Looks like an index of FAISS to whoever builds and searches it."""

    def __init__(self, faiss: Any, corpus: Corpus, bits: Any = None) -> None:  # noqa: ANN401 - it has no types
        self.rescored = LEAST_RESCORED  # for every ten rows that are asked for
        self._faiss = faiss
        self._corpus = corpus
        self._bits = faiss.IndexBinaryFlat(_whole_bytes(corpus.recipe.width)) if bits is None else bits

    @classmethod
    def read(cls, faiss: Any, corpus: Corpus, path: Path) -> BinaryIndex:  # noqa: ANN401
        return cls(faiss, corpus, faiss.read_index_binary(str(path)))

    def write(self, path: Path) -> None:
        self._faiss.write_index_binary(self._bits, str(path))

    def add(self, units: FloatArray) -> None:
        self._bits.add(bits_of(units))

    def search(self, units: FloatArray, top_k: int) -> tuple[FloatArray, IntArray]:
        """Cosines and rows [q, ≤ top_k], best first; equal scores in the order of the rows."""
        number = min(max(self.rescored, -(-top_k // PER_HITS) * self.rescored), self._bits.ntotal)
        _, found = self._bits.search(bits_of(units), number)
        best = [self._best(unit, np.sort(rows), top_k) for unit, rows in zip(units, found, strict=True)]
        return np.array([scores for scores, _ in best]), np.array([rows for _, rows in best])

    def _best(self, unit: FloatArray, rows: IntArray, top_k: int) -> tuple[FloatArray, IntArray]:
        scores = score_rows(self._corpus.parts, unit, rows)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return scores[order], rows[order]


def bits_of(units: FloatArray) -> npt.NDArray[np.uint8]:
    """[n, ⌈width / 8⌉]: 1 where a component is above 0, the first in the highest bit, zeros behind the last."""
    return np.packbits(units > 0, axis=1)


def _whole_bytes(width: int) -> int:
    return -(-width // 8) * 8
