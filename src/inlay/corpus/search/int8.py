"""A byte for each component, in ranges that the corpus's own vectors have. A quarter of the vectors' bytes.

One scale for all (`output_dtype: int8`) needs no corpus; here each component has the range that a sample of the corpus
fills, so that no value is clipped and none of the 256 steps lies where nothing is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inlay.corpus.corpus import Corpus
from inlay.corpus.search.rescored import RescoredIndex
from inlay.types import FloatArray, IntArray

LEAST_RESCORED = 20


class Int8Index(RescoredIndex):
    """Bytes, by FAISS's scalar quantiser, with dot products of what they stand for."""

    def __init__(self, faiss: Any, corpus: Corpus, codes: Any = None) -> None:  # noqa: ANN401
        if codes is None:
            kind = faiss.ScalarQuantizer.QT_8bit
            codes = faiss.IndexScalarQuantizer(corpus.recipe.width, kind, faiss.METRIC_INNER_PRODUCT)
        super().__init__(corpus, codes, LEAST_RESCORED)
        self._faiss = faiss

    @classmethod
    def read(cls, faiss: Any, corpus: Corpus, path: Path) -> Int8Index:  # noqa: ANN401
        return cls(faiss, corpus, faiss.read_index(str(path)))

    def train(self, units: FloatArray) -> None:
        """Take the ranges from a sample."""
        self.codes.train(units)

    def write(self, path: Path) -> None:
        self._faiss.write_index(self.codes, str(path))

    def add(self, units: FloatArray) -> None:
        self.codes.add(units)

    def find(self, units: FloatArray, number: int) -> IntArray:
        _, rows = self.codes.search(units, number)
        return rows  # type: ignore[no-any-return]
