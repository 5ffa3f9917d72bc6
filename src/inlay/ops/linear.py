"""The matrix product of every layer: y = x Wᵀ + b, through torch's own dispatch (MKL, oneDNN, cuBLAS).

On a CPU a row's result must not depend on how many rows come with it. MKL takes other kernels, which sum
in another order, below 16 rows, so fewer rows are filled up to that number. The weights must be read once
either way, so it costs next to nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_GEMM = 16  # rows; measured: from here on MKL's float32 results are bitwise the same for any number


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [T, in] · weight [out, in] → [T, out], in the dtype of the weight."""
    x = x.to(weight.dtype)
    rows = x.shape[0]
    if rows < SMALLEST_GEMM and x.device.type == "cpu" and x.dtype == torch.float32:
        return F.linear(F.pad(x, (0, 0, 0, SMALLEST_GEMM - rows)), weight, bias)[:rows]
    return F.linear(x, weight, bias)
