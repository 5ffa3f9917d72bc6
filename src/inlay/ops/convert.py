"""The two ways to have rows in a dtype: as a product takes them, or as a plain tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from inlay.ops.dispatch import kernels_for
from inlay.ops.rows import Form, Rows

IDENTITY = 0  # the kernels' number of the activation that only applies what rows still want


def rows_in(x: Tensor, form: Form) -> Rows:
    """x [T, width] in the form that a product takes; x itself if it has that already."""
    if x.dtype == form.dtype:
        return Rows(x)
    if (kernels := kernels_for(x, form.dtype)) is not None:
        return kernels.convert(x, form)
    return Rows.of(x, form)


def tensor_of(x: Rows, dtype: torch.dtype) -> Tensor:
    """x with all that it still wants, as a plain tensor; its values themselves if they are that already."""
    if x.panels is None and x.scales is None and x.bias is None and x.values.dtype == dtype:
        return x.values
    if (kernels := kernels_for(x, dtype)) is not None:
        return kernels.activate(x, IDENTITY, Form(dtype)).values
    return x.full().to(dtype)
