"""What an adapter adds to a product: y += (x A) B, where A and B are small (Hu et al. 2021).

In: rows that a product took, and what it gave for them. Out: the same results, with the sum, in place. A row's sum has
the same bits whatever comes with it, where there are compiled kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from inlay.ops import native
from inlay.ops.addresses import CODES
from inlay.ops.rows import Rows

RANK_STEP = 16  # the widest vectors of the kernels


@dataclass(frozen=True, slots=True)
class LowRankFactors:
    """Both matrices, in the dtype of the model."""

    a: Tensor  # [in, rank], filled up with zeros to whole vectors
    b: Tensor  # [rank, out]
    columns: Tensor | None = None  # [out] float32: what the sum is multiplied by
    shift: Tensor | None = None  # [out] float32: what is added behind that, to results that have their bias already

    @classmethod
    def of(
        cls, a: Tensor, b: Tensor, dtype: torch.dtype, columns: Tensor | None = None, shift: Tensor | None = None
    ) -> Self:
        """From a [rank, in] and b [out, rank]."""
        filled = F.pad(a.T, (0, -len(a) % RANK_STEP))
        return cls(filled.to(dtype).contiguous(), b.T.to(dtype).contiguous(), columns, shift)


def add_low_rank(y: Rows, x: Rows, factors: LowRankFactors, columns: slice) -> None:
    """To columns of y [rows, width], which are there; of a y that wants scales or a bias, as the op gives it those."""
    own = y.values[:, columns]
    shift = factors.shift if y.bias is None else None
    given = x.values if x.scales is None else x.full()
    kernels = native.load_kernels() if own.is_cpu else None
    if kernels is not None and {own.dtype, given.dtype, factors.a.dtype} <= CODES.keys():
        kernels.add_low_rank(own, y.scales, given, (factors.a, factors.b), factors.columns, shift)
        return
    added = given.to(factors.a.dtype) @ factors.a[:, : len(factors.b)] @ factors.b
    own += added if y.scales is None else added * torch.where(y.scales > 0, 1 / y.scales, 0.0)[:, None]
    if factors.columns is not None:
        own *= factors.columns
    if shift is not None:
        own += shift
