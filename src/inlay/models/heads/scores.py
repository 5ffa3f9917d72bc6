"""The score of a pair: one logit, from the row that pooling names.

Its payload is float32[1], before any activation. All in float32: of two near documents the order counts. Where a
generative model says yes or no, the score is the difference of the two logits, so two rows of its table do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from inlay.errors import ModelError
from inlay.models.forward import require
from inlay.models.heads.head import Head
from inlay.models.weights import read_tensors
from inlay.ops.embedding import mean_of_rows
from inlay.ops.layout import Layout
from inlay.ops.linear import Product, Weights, make_product
from inlay.ops.rows import Rows
from inlay.types import ModelSpec, Pooling


@dataclass(frozen=True, slots=True)
class Names:
    """Of the tensors of a classifier."""

    last: str  # product
    first: str | None = None  # product, with an activation behind it
    norm: str | None = None  # behind that
    activation: str = "tanh"


# By layout.
_NAMES = {
    "roberta": Names("classifier.out_proj", "classifier.dense"),
    "bert": Names("classifier", "bert.pooler.dense"),
    "new": Names("classifier", "new.pooler.dense"),
    "gte": Names("classifier", "gte.pooler.dense"),
    "modernbert": Names("classifier", "head.dense", "head.norm", "gelu"),
    "score": Names("score"),
}
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "gelu": F.gelu}
_OUTPUT_TABLES = ("lm_head.weight", "model.embed_tokens.weight", "embed_tokens.weight")  # the first that is there


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of x Wᵀ + b, or of a norm, in float32."""

    weight: Tensor  # [out, in], or [width] of a norm
    bias: Tensor | None

    def product(self) -> Product:
        return make_product(Weights((self.weight,), () if self.bias is None else (self.bias,)))


class ScoreHead(Head):
    def __init__(self, spec: ModelSpec) -> None:
        if spec.ranking is None:
            raise ModelError(f"model {spec.name!r} is no reranker and has no scores")
        self._ranking = spec.ranking
        self._width = spec.width
        self.needs_all_rows = spec.pooling is Pooling.MEAN
        self._is_tied = spec.config.get("tie_word_embeddings") is not False
        self._norm_eps = float(spec.config.get("norm_eps", 1e-5))
        self._first: Product | None = None
        self._norm: Layer | None = None
        self._last: Product | None = None
        if spec.ranking.layout == "modernbert":
            require(spec.config, "classifier_activation", "gelu")

    def reads(self, tensor_name: str) -> bool:
        if self._ranking.yes_no is not None:
            return tensor_name in (_OUTPUT_TABLES if self._is_tied else _OUTPUT_TABLES[:1])
        names = _NAMES[self._ranking.layout]
        named = (name for name in (names.first, names.norm, names.last) if name is not None)
        return tensor_name in {f"{name}.{part}" for name in named for part in ("weight", "bias")}

    def load(self, files: list[Path], device: torch.device) -> None:
        if self._ranking.yes_no is not None:
            self._last = Layer(self._yes_or_no(files, self._ranking.yes_no).to(device), None).product()
            return
        names, width = _NAMES[self._ranking.layout], self._width
        found = {name: tensor.float().to(device, copy=True) for name, tensor in read_tensors(files) if self.reads(name)}
        if names.first is not None:
            self._first = _layer(files, found, names.first, (width, width)).product()
        if names.norm is not None:
            self._norm = _layer(files, found, names.norm, (width,))
        self._last = _layer(files, found, names.last, (1, width)).product()

    def _yes_or_no(self, files: list[Path], ids: tuple[int, int]) -> Tensor:
        """Row of yes − row of no, [1, width]. Of the whole table only the two are read."""
        tables = {name: tensor for name, tensor in read_tensors(files) if self.reads(name)}
        table = next((tables[name] for name in _OUTPUT_TABLES if name in tables), None)
        if table is None or max(ids) >= len(table):
            raise ModelError(f"the weights in {files[0].parent} have no rows for yes and no {ids}, which scores need")
        yes, no = table[list(ids)].float()
        difference: Tensor = (yes - no)[None]
        return difference

    def __call__(self, hidden: Tensor, layout: Layout) -> Tensor:
        """hidden [B, width], or [T, width] of all rows → logits [B, 1]."""
        if self._last is None:
            raise RuntimeError("the head was not loaded")
        if self.needs_all_rows:
            hidden = mean_of_rows(hidden, layout)
        if self._first is not None:
            hidden = _FUNCTIONS[_NAMES[self._ranking.layout].activation](self._first(Rows(hidden)).full())
        if self._norm is not None:
            hidden = F.layer_norm(hidden, (self._width,), self._norm.weight, self._norm.bias, self._norm_eps)
        return self._last(Rows(hidden)).full()

    def payloads(self, array: npt.NDArray[Any], layout: object, ids: object) -> list[bytes | None]:
        return [row.tobytes() if np.isfinite(row).all() else None for row in array]


def _layer(files: list[Path], found: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Layer:
    weight = found.get(f"{name}.weight")
    if weight is None or tuple(weight.shape) != shape:
        what = "no tensor" if weight is None else f"a tensor of shape {list(weight.shape)} for"
        raise ModelError(f"the weights in {files[0].parent} have {what} {name}.weight {list(shape)}, which scores need")
    return Layer(weight, found.get(f"{name}.bias"))
