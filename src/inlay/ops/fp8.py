"""The FP8 product (e4m3): weights with a scale a channel, activations with a scale a row, sums in float32.

In: rows in FP8 with their scales. Out: rows in a half precision, with all that they want. It is torch's product; GPUs
from sm89 on compute in FP8, and a processor gives the same to the rounding, slowly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from inlay.ops.linear import Weights
from inlay.ops.rows import FP8, Form, Rows

ADA = (8, 9)  # the first compute capability with FP8
MULTIPLE = 16  # of which both widths must be


class Fp8Product:
    """torch's, with the weight rounded once, or as it is stored."""

    def __init__(self, weights: Weights, out: torch.dtype) -> None:
        self.takes = Form(FP8)
        bias = weights.bias()
        is_stored = bool(weights.scales)
        self._weight, self._scales = (
            (weights.joined(), torch.cat(weights.scales)) if is_stored else fp8_of(weights.parts)
        )
        self._bias = None if bias is None else bias.to(out)
        self._out = out

    def __call__(self, x: Rows) -> Rows:
        if x.scales is None:
            raise ValueError("rows in FP8 need scales")
        scales = {"scale_a": x.scales[:, None], "scale_b": self._scales[None, :]}
        y = torch._scaled_mm(
            x.values, self._weight.t(), **scales, bias=self._bias, out_dtype=self._out, use_fast_accum=True
        )
        return Rows(y)


def fp8_of(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Weights side by side [all outs, in] in FP8, and the scales of their channels [all outs]."""
    rows = Rows.of(torch.cat(list(parts)).float(), Form(FP8))
    if rows.scales is None:
        raise ValueError("rows in FP8 need scales")
    return rows.values, rows.scales


def can_multiply_fp8(weight: Tensor) -> bool:
    """Is there a product of this size?"""
    return weight.shape[0] % MULTIPLE == 0 and weight.shape[1] % MULTIPLE == 0


def has_fp8(device: torch.device) -> bool:
    """Does the device compute in it?"""
    return device.type == "cuda" and torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= ADA
