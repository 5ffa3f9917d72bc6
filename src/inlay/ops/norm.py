"""Normalisation over the last axis, always in float32: half precision loses small differences here."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / √(mean(x²) + eps) · weight (Zhang & Sennrich 2019); float32 out."""
    return F.rms_norm(x.float(), weight.shape, weight, eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x − mean) / √(var + eps) · weight + bias (Ba et al. 2016); float32 out."""
    return F.layer_norm(x.float(), weight.shape, weight, bias, eps)
