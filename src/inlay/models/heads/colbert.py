"""The token vectors of BGE-M3, for late interaction (ColBERT): a row for each token but the first.

Linear(hidden) of all tokens but `<s>`, so that `</s>` has one (FlagEmbedding, BGEM3Model). Its payload is
float32[tokens − 1, width], before cut and normalisation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inlay.models.heads.head import Head
from inlay.models.heads.linear_file import read_linear
from inlay.ops.layout import Layout
from inlay.ops.linear import Product, make_product
from inlay.ops.rows import Rows
from inlay.types import COLBERT, IntArray, ModelSpec


class ColbertHead(Head):
    needs_all_rows = True

    def __init__(self, spec: ModelSpec) -> None:
        self._file = spec.head_files[COLBERT]
        self._width = spec.width
        self._product: Product | None = None

    def load(self, files: list[Path], device: torch.device) -> None:
        self._product = make_product(read_linear(self._file, (self._width, self._width), device))

    def __call__(self, hidden: Tensor, layout: Layout) -> Tensor:
        """hidden [T, width] → [T, width]."""
        if self._product is None:
            raise RuntimeError("the head was not loaded")
        return self._product(Rows(hidden)).full()

    def payloads(self, array: npt.NDArray[Any], layout: Layout, ids: IntArray) -> list[bytes | None]:
        pairs = zip(layout.offsets, layout.offsets[1:], strict=False)
        rows = (array[start + 1 : end] for start, end in pairs)
        return [own.tobytes() if np.isfinite(own).all() else None for own in rows]
