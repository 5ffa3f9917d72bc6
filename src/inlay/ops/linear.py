"""The matrix product of a layer: y = x Wᵀ + b, in the form that this device is fastest in.

In: rows in the dtype that the product `takes`. Out: rows. On a CPU the weights are packed once: for the compiled
product, whose rows are computed by the op that takes them, or for oneDNN. Both run near the processor's peak and give
a row the same bits whatever comes with it. Elsewhere, and where torch has no oneDNN, the product is torch's own. MKL
takes other kernels, which sum in another order, below 16 rows, so in float32 fewer rows are filled up to that number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from inlay.ops import native
from inlay.ops.processor import has_avx512
from inlay.ops.rows import Form, Panels, Rows

SMALLEST_GEMM = 16  # rows; measured: from here on MKL's float32 results are bitwise the same for any number


class Product(Protocol):
    """x [T, in] → [T, out]."""

    @property
    def takes(self) -> Form:
        """What x must be in."""
        ...

    def __call__(self, x: Rows) -> Rows: ...


@dataclass(frozen=True, slots=True)
class Weights:
    """Of products that share their input, side by side; put together only when they are used."""

    parts: tuple[Tensor, ...]  # each [out, in]
    biases: tuple[Tensor, ...] = ()  # of each part, or of none
    scales: tuple[Tensor, ...] = ()  # of each part's channels, where the parts are int8
    multipliers: Tensor | None = None  # of the activations, where the parts are int8

    def joined(self) -> Tensor:
        """[all outs, in]; a copy where there are several parts."""
        return torch.cat(self.parts) if len(self.parts) > 1 else self.parts[0]

    def bias(self) -> Tensor | None:
        return torch.cat(self.biases) if self.biases else None


def make_product(weights: Weights) -> Product:
    """The fastest product on the weights' device in their dtype; it keeps nothing of them but what it needs."""
    weight, bias = weights.joined(), weights.bias()
    kernels = native.load_kernels() if weight.is_cpu else None
    if kernels is not None and kernels.knows_product(weight.dtype, weight.shape[1]):
        panels = Panels(kernels.pack(weight), len(weight), weight.dtype, weight.dtype, kernels.multiply)
        return PanelProduct(panels, bias, Form(kernels.row_dtype(weight.dtype)))
    if can_pack(weight):
        return PackedProduct(weight, bias)
    return PlainProduct(weight, bias)


def can_pack(weight: Tensor) -> bool:
    """Is it on a processor, does torch have oneDNN, and oneDNN this dtype on this processor?"""
    if weight.device.type != "cpu" or not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if weight.dtype == torch.bfloat16:
        return has_avx512() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


class PanelProduct:
    """The compiled one, with the weight in panels."""

    def __init__(self, panels: Panels, bias: Tensor | None, takes: Form) -> None:
        self.takes = takes
        self._panels = panels
        self._bias = None if bias is None else bias.float()

    def __call__(self, x: Rows) -> Rows:
        return Rows(x.values, x.scales, self._bias, x.zero_point, self._panels)


class PackedProduct:
    """oneDNN's, with the weight in its own layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.takes = Form(weight.dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self._bias = bias

    def __call__(self, x: Rows) -> Rows:
        y = torch.ops.mkldnn._linear_pointwise(x.values, self._weight, self._bias, "none", [], "")
        return Rows(y)


class PlainProduct:
    """torch's own dispatch: MKL, cuBLAS and others. It wants a bias in the dtype of the weight."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.takes = Form(weight.dtype)
        self._weight = weight
        self._bias = None if bias is None else bias.to(weight.dtype)

    def __call__(self, x: Rows) -> Rows:
        rows = len(x.values)
        if rows < SMALLEST_GEMM and x.values.device.type == "cpu" and self.takes.dtype == torch.float32:
            filled = F.pad(x.values, (0, 0, 0, SMALLEST_GEMM - rows))
            return Rows(F.linear(filled, self._weight, self._bias)[:rows])
        return Rows(F.linear(x.values, self._weight, self._bias))
