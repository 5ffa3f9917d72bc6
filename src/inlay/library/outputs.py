"""What `embed_outputs` gives: all kinds of output of a model that has several, as BGE-M3 has, in plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy.typing as npt

from inlay.types import COLBERT, SPARSE, TOKEN_EMBEDDINGS, FloatArray, IntArray


class SparseVector(NamedTuple):
    """Weights of the tokens of a text; all others are 0."""

    indices: IntArray  # token ids, ascending
    values: FloatArray


@dataclass(frozen=True, slots=True)
class Outputs:
    """By kind, in the order of the texts; empty for a kind that was not asked for."""

    dense: FloatArray  # [n, dimensions]
    sparse: list[SparseVector]
    colbert: list[FloatArray]  # of each text [tokens, dimensions], each row of unit length unless asked otherwise
    token_embeddings: list[FloatArray]  # of each text [tokens, hidden width], special tokens included

    @classmethod
    def of(cls, vectors: FloatArray, others: Mapping[str, list[npt.NDArray[Any]]]) -> Self:
        """From what a service gives."""
        sparse = [SparseVector(row["id"].astype("i8"), row["weight"].copy()) for row in others.get(SPARSE, [])]
        return cls(vectors, sparse, others.get(COLBERT, []), others.get(TOKEN_EMBEDDINGS, []))
