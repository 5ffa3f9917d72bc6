"""Rows of one dtype in another, for products that take other rows than the op before them gives."""

from __future__ import annotations

from torch import Tensor

from inlay.ops.native import kernels_for
from inlay.ops.rows import Form, Rows


def converted(x: Tensor, to: Form) -> Rows:
    """x [T, width] in the form that a product takes; x itself if it has that already."""
    if x.dtype == to.dtype:
        return Rows(x)
    if (kernels := kernels_for(x, to.dtype)) is not None:
        return kernels.convert(x, to)
    return Rows.of(x, to)
