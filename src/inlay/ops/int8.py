"""The int8 product (W8A8): weights with a scale a channel, activations with a scale a row, sums in whole numbers.

In: rows of bytes. Out: rows in a float dtype that still want the scales of their rows, and the bias. The sums are
exact, on every processor, so a row's result is the same bits whatever comes with it. oneDNN, where the compiled product
is not, would without VNNI add pairs of products in 16 bits, which overflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inlay.ops import native
from inlay.ops.addresses import WORD
from inlay.ops.convert import rows_in
from inlay.ops.linear import PanelProduct, Product, Weights
from inlay.ops.processor import has_vnni
from inlay.ops.rows import ZERO_POINT, Form, Panels, Rows, extents

SMALLEST = 1e-6  # activations and weights below do not set a multiplier
BYTES = Form(torch.uint8)
ZERO_POINTS = (128, 96, 64, 48, 32, 16, 8)


@dataclass(frozen=True, slots=True)
class QuantisedWeight:
    """weight / multipliers [out, in] as int8 · scale of the channel."""

    values: Tensor  # [out, in] int8
    scales: Tensor  # [out] float32
    takes: Form = BYTES

    @classmethod
    def of(cls, weight: Tensor, takes: Form = BYTES) -> QuantisedWeight:
        """Symmetric, by the largest magnitude of each channel."""
        rows = rows_in(weight, Form(torch.uint8, None if takes.multipliers is None else 1 / takes.multipliers))
        if rows.scales is None:
            raise ValueError(f"a weight of {weight.dtype} is quantised already")
        return cls((rows.values ^ ZERO_POINT).view(torch.int8), rows.scales, takes)


def form_for(activations: Tensor, weights: Weights) -> Form:
    """Bytes for activations [T, in]: smoothed, with the zero point that gives rows the least scales on average."""
    multipliers = smoothing(activations, weights)
    forms = [Form(torch.uint8, multipliers, zero_point) for zero_point in ZERO_POINTS]
    above, below = extents(forms[0].multiplied(activations))
    return min(forms, key=lambda form: form.scales(above, below).mean().item())


def smoothing(activations: Tensor, weights: Weights) -> Tensor:
    """Multipliers [in] of the activations [T, in] that share out what is hard between them and the weights.

    √(largest weight of the column / largest activation): SmoothQuant (Xiao et al. 2023) with α = 0.5.
    """
    columns = torch.stack([part.abs().amax(dim=0) for part in weights.parts]).amax(dim=0).float()
    largest = activations.abs().amax(dim=0).float().clamp_min(SMALLEST)
    return torch.sqrt(columns.clamp_min(SMALLEST) / largest)


def can_multiply_bytes() -> bool:
    """Is there a compiled product; or does torch have one, and the processor the instruction that makes it exact?"""
    kernels = native.load_kernels()
    if kernels is not None and kernels.knows_product(torch.uint8, WORD):
        return True
    return _has_onednn() and has_vnni()


def _has_onednn() -> bool:
    return bool(torch._C._has_mkldnn) and hasattr(torch.ops.onednn, "qlinear_pointwise")


class PackedInt8Product:
    """oneDNN's, with the weight in its own layout."""

    def __init__(self, weight: QuantisedWeight, bias: Tensor | None, out: torch.dtype) -> None:
        self.takes = weight.takes
        self._weight = torch.ops.onednn.qlinear_prepack(weight.values, None)
        self._bias = None if bias is None else bias.float()
        zeros = torch.zeros(len(weight.scales), dtype=torch.int32)
        self._rest: tuple[Any, ...] = (weight.scales, zeros, None, 1.0, 0, out, "none", [], "")

    def __call__(self, x: Rows) -> Rows:
        y = torch.ops.onednn.qlinear_pointwise(x.values, 1.0, self.takes.zero_point, self._weight, *self._rest)
        return Rows(y, x.scales, self._bias)


class PlainInt8Product:
    """Exact and slow: for widths that are no whole words, where nothing else is exact."""

    def __init__(self, weight: QuantisedWeight, bias: Tensor | None, out: torch.dtype) -> None:
        self.takes = weight.takes
        self._weight = weight.values.double().T
        self._scales = weight.scales
        self._bias = None if bias is None else bias.float()
        self._out = out

    def __call__(self, x: Rows) -> Rows:
        sums = (x.values.double() - self.takes.zero_point) @ self._weight
        return Rows((sums.float() * self._scales).to(self._out), x.scales, self._bias)


def make_quantised_product(weight: QuantisedWeight, bias: Tensor | None, out: torch.dtype) -> Product:
    """The fastest product of an int8 weight; results are in `out` where they are not used at once."""
    kernels = native.load_kernels()
    width_out, width_in = weight.values.shape
    if kernels is None or not kernels.knows_product(torch.uint8, width_in):
        return (PackedInt8Product if _has_onednn() and has_vnni() else PlainInt8Product)(weight, bias, out)
    words = kernels.pack(weight.values)
    padding = (0, words.shape[0] * words.shape[2] - width_out)
    starts = F.pad(
        (kernels.byte_offset - weight.takes.zero_point) * weight.values.sum(dim=1, dtype=torch.int32), padding
    )
    panels = Panels(words, width_out, torch.uint8, out, kernels.multiply, starts, F.pad(weight.scales, padding))
    return PanelProduct(panels, bias, weight.takes)


def make_int8_product(weights: Weights, out: torch.dtype, takes: Form = BYTES) -> Product:
    """The product of weights that are not quantised yet, part by part."""
    parts = [QuantisedWeight.of(part, takes) for part in weights.parts]
    values, scales = torch.cat([part.values for part in parts]), torch.cat([part.scales for part in parts])
    return make_quantised_product(QuantisedWeight(values, scales, takes), weights.bias(), out)


def make_stored_int8_product(weights: Weights, out: torch.dtype, zero_point: int) -> Product:
    """The product of weights that are int8 already."""
    takes = Form(torch.uint8, weights.multipliers, zero_point)
    return make_quantised_product(
        QuantisedWeight(weights.joined(), torch.cat(weights.scales), takes), weights.bias(), out
    )
