"""The dense output: one vector a sequence, from the row that pooling names or from the mean of all rows.

Behind it the dense modules of the checkpoint, if it has any, in float32. Its payload is float32[width], before cut and
normalisation. Last and first rows are found by length, never by a token id.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inlay.models.heads.head import Head
from inlay.models.heads.linear_file import linear_of
from inlay.models.weights import read_tensors, weight_files
from inlay.ops.embedding import mean_of_rows
from inlay.ops.layout import Layout
from inlay.ops.linear import Product, Weights, make_product
from inlay.ops.rows import Rows
from inlay.types import DenseLayer, IntArray, ModelSpec, Pooling


class DenseHead(Head):
    def __init__(self, spec: ModelSpec) -> None:
        self.needs_all_rows = spec.pooling is Pooling.MEAN
        self._layers = spec.dense_layers
        self._products: list[Product] = []

    def load(self, files: list[Path], device: torch.device) -> None:
        self._products = [make_product(_read_weights(layer, device)) for layer in self._layers]

    def __call__(self, hidden: Tensor, layout: Layout) -> Tensor:
        vectors = mean_of_rows(hidden, layout) if self.needs_all_rows else hidden
        for layer, product in zip(self._layers, self._products, strict=True):
            vectors = product(Rows(vectors)).full()
            if layer.activation == "tanh":
                vectors = torch.tanh(vectors)
        return vectors

    def payloads(self, array: npt.NDArray[Any], layout: Layout, ids: IntArray) -> list[bytes | None]:
        are_finite: list[bool] = np.isfinite(array).all(axis=1).tolist()
        return [row.tobytes() if is_finite else None for row, is_finite in zip(array, are_finite, strict=True)]


def _read_weights(layer: DenseLayer, device: torch.device) -> Weights:
    (file, *_) = files = weight_files(layer.path)
    shape = (layer.width_out, layer.width_in)
    return linear_of(dict(read_tensors(files)), file, shape, device, "linear.", has_bias=layer.has_bias)
