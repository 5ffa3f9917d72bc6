"""Rows of one dtype in another, for products that take other rows than the op before them gives."""

from __future__ import annotations

import torch
from torch import Tensor

from inlay.ops.native import kernels_for
from inlay.ops.rows import Rows


def converted(x: Tensor, to: torch.dtype) -> Rows:
    """x [T, width] as rows of a dtype; x itself if it has that already."""
    if x.dtype == to:
        return Rows(x)
    if (kernels := kernels_for(x, to)) is not None:
        return kernels.convert(x, to)
    return Rows.of(x, to)
