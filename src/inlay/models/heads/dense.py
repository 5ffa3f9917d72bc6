"""The dense output: one vector a sequence, from the row that pooling names or from the mean of all rows.

Its payload is float32[width], before cut and normalisation. Last and first rows are found by length, never by a
token id.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from inlay.models.heads.head import Head
from inlay.ops.embedding import mean_of_rows
from inlay.ops.layout import Layout
from inlay.types import ModelSpec, Pooling


class DenseHead(Head):
    def __init__(self, spec: ModelSpec) -> None:
        self.needs_all_rows = spec.pooling is Pooling.MEAN

    def __call__(self, hidden: Tensor, layout: Layout) -> Tensor:
        return mean_of_rows(hidden, layout) if self.needs_all_rows else hidden

    def payloads(self, array: npt.NDArray[Any], layout: Layout) -> list[bytes | None]:
        are_finite: list[bool] = np.isfinite(array).all(axis=1).tolist()
        return [row.tobytes() if is_finite else None for row, is_finite in zip(array, are_finite, strict=True)]
