"""Residual sums with the normalisation after them, always in float32: half precision loses small differences here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from inlay.ops.dispatch import kernels_for
from inlay.ops.rows import Form, Rows


def add_rms_norm(hidden: Tensor, delta: Rows | None, weight: Tensor, eps: float, to: Form) -> Rows:
    """hidden [T, width] += delta, in place; then x / √(mean(x²) + eps) · weight (Zhang & Sennrich 2019)."""
    if (kernels := kernels_for(hidden, to.dtype, *_dtypes_of(delta))) is not None:
        return kernels.add_rms_norm(hidden, delta, weight, eps, to)
    if delta is not None:
        hidden += delta.full()
    return Rows.of(F.rms_norm(hidden, weight.shape, weight, eps), to)


def add_layer_norm(
    hidden: Tensor, delta: Rows | None, weight: Tensor, bias: Tensor, eps: float, to: Form, *, keeps_sum: bool = False
) -> Rows:
    """The norm of x = hidden [T, width] + delta: (x − mean) / √(var + eps) · weight + bias.

    hidden becomes the norm, in place, or the sum x, where that is kept (pre-norm).
    """
    if (kernels := kernels_for(hidden, to.dtype, *_dtypes_of(delta))) is not None:
        return kernels.add_layer_norm(hidden, delta, weight, bias, eps, to, keeps_sum=keeps_sum)
    if delta is not None:
        hidden += delta.full()
    normed = F.layer_norm(hidden, weight.shape, weight, bias, eps)
    return Rows.of(normed if keeps_sum else hidden.copy_(normed), to)


def _dtypes_of(delta: Rows | None) -> tuple[torch.dtype, ...]:
    return () if delta is None or delta.panels is not None else (delta.values.dtype,)
