"""A bit for each component: the rows whose bits differ least from the query's. A thirty-second of vectors' bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inlay.corpus.corpus import Corpus
from inlay.corpus.search.rescored import RescoredIndex
from inlay.types import FloatArray, IntArray

LEAST_RESCORED = 40


class BinaryIndex(RescoredIndex):
    """Bits, compared by their number that differs."""

    def __init__(self, faiss: Any, corpus: Corpus, codes: Any = None) -> None:  # noqa: ANN401
        own = faiss.IndexBinaryFlat(_whole_bytes(corpus.recipe.width)) if codes is None else codes
        super().__init__(corpus, own, LEAST_RESCORED)
        self._faiss = faiss

    @classmethod
    def read(cls, faiss: Any, corpus: Corpus, path: Path) -> BinaryIndex:  # noqa: ANN401
        return cls(faiss, corpus, faiss.read_index_binary(str(path)))

    def write(self, path: Path) -> None:
        self._faiss.write_index_binary(self.codes, str(path))

    def add(self, units: FloatArray) -> None:
        self.codes.add(bits_of(units))

    def find(self, units: FloatArray, number: int) -> IntArray:
        _, rows = self.codes.search(bits_of(units), number)
        return rows  # type: ignore[no-any-return]


def bits_of(units: FloatArray) -> npt.NDArray[np.uint8]:
    """[n, ⌈width / 8⌉]: 1 where a component is above 0, the first in the highest bit, zeros behind the last."""
    return np.packbits(units > 0, axis=1)


def _whole_bytes(width: int) -> int:
    return -(-width // 8) * 8
