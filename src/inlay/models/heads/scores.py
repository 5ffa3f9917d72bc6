"""The score of a pair: one logit, from the row that pooling names.

Its payload is float32[1], before any activation. All in float32: of two near documents the order counts. Where a
generative model says yes or no, the score is the difference of the two logits, so two rows of its table do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inlay.errors import ModelError
from inlay.models.heads.head import Head
from inlay.models.weights import read_tensors
from inlay.ops.linear import Product, Weights, make_product
from inlay.ops.rows import Rows
from inlay.types import ModelSpec

# By layout: the names of a first product with tanh behind it, and of the last one, without the wrapper's.
_NAMES: dict[str, tuple[str | None, str]] = {
    "roberta": ("classifier.dense", "classifier.out_proj"),
    "bert": ("bert.pooler.dense", "classifier"),
    "score": (None, "score"),
}
_OUTPUT_TABLES = ("lm_head.weight", "model.embed_tokens.weight", "embed_tokens.weight")  # the first that is there


@dataclass(frozen=True, slots=True)
class Layer:
    """x Wᵀ + b in float32."""

    weight: Tensor  # [out, in]
    bias: Tensor | None

    def product(self) -> Product:
        return make_product(Weights((self.weight,), () if self.bias is None else (self.bias,)))


class ScoreHead(Head):
    def __init__(self, spec: ModelSpec) -> None:
        if spec.ranking is None:
            raise ModelError(f"model {spec.name!r} is no reranker and has no scores")
        self._ranking = spec.ranking
        self._width = spec.width
        self._is_tied = spec.config.get("tie_word_embeddings") is not False
        self._first: Product | None = None
        self._last: Product | None = None

    def reads(self, tensor_name: str) -> bool:
        if self._ranking.yes_no is not None:
            return tensor_name in (_OUTPUT_TABLES if self._is_tied else _OUTPUT_TABLES[:1])
        names = (name for name in _NAMES[self._ranking.layout] if name is not None)
        return tensor_name in {f"{name}.{part}" for name in names for part in ("weight", "bias")}

    def load(self, files: list[Path], device: torch.device) -> None:
        first, last = self._read(files, device)
        self._first = None if first is None else first.product()
        self._last = last.product()

    def _read(self, files: list[Path], device: torch.device) -> tuple[Layer | None, Layer]:
        if self._ranking.yes_no is not None:
            return None, Layer(self._yes_or_no(files, self._ranking.yes_no).to(device), None)
        before, behind = _NAMES[self._ranking.layout]
        found = {name: tensor.float().to(device, copy=True) for name, tensor in read_tensors(files) if self.reads(name)}
        first = None if before is None else _layer(files, found, before, (self._width, self._width))
        return first, _layer(files, found, behind, (1, self._width))

    def _yes_or_no(self, files: list[Path], ids: tuple[int, int]) -> Tensor:
        """Row of yes − row of no, [1, width]. Of the whole table only the two are read."""
        tables = {name: tensor for name, tensor in read_tensors(files) if self.reads(name)}
        table = next((tables[name] for name in _OUTPUT_TABLES if name in tables), None)
        if table is None or max(ids) >= len(table):
            raise ModelError(f"the weights in {files[0].parent} have no rows for yes and no {ids}, which scores need")
        yes, no = table[list(ids)].float()
        difference: Tensor = (yes - no)[None]
        return difference

    def __call__(self, hidden: Tensor, layout: object) -> Tensor:
        """hidden [B, width] → logits [B, 1]."""
        if self._last is None:
            raise RuntimeError("the head was not loaded")
        if self._first is not None:
            hidden = torch.tanh(self._first(Rows(hidden)).full())
        return self._last(Rows(hidden)).full()

    def payloads(self, array: npt.NDArray[Any], layout: object) -> list[bytes | None]:
        return [row.tobytes() if np.isfinite(row).all() else None for row in array]


def _layer(files: list[Path], found: dict[str, Tensor], name: str, shape: tuple[int, int]) -> Layer:
    weight = found.get(f"{name}.weight")
    if weight is None or tuple(weight.shape) != shape:
        what = "no tensor" if weight is None else f"a tensor of shape {list(weight.shape)} for"
        raise ModelError(f"the weights in {files[0].parent} have {what} {name}.weight {list(shape)}, which scores need")
    return Layer(weight, found.get(f"{name}.bias"))
