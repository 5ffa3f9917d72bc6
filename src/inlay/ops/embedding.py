"""What stands before the first layer and behind the last: rows of tables, and means of rows; always in float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from inlay.ops.dispatch import kernels_for
from inlay.ops.layout import Layout


def look_up(*tables: tuple[Tensor, Tensor | None]) -> Tensor:
    """The sum of a row of each table [rows, width] of one dtype, by ids [T] or always the first → [T, width].

    The first table has ids. One that is out of range is an `IndexError`.
    """
    first, ids = tables[0]
    if ids is None:
        raise ValueError("the first table needs ids")
    if (kernels := kernels_for(first)) is not None:
        return kernels.look_up(tables, len(ids))
    total = F.embedding(ids, first).float()
    for table, others in tables[1:]:
        total += (table[0] if others is None else F.embedding(others, table)).float()
    return total


def mean_of_rows(hidden: Tensor, layout: Layout) -> Tensor:
    """hidden [T, width] in float32 → the mean of each sequence, [B, width]."""
    if hidden.is_contiguous() and (kernels := kernels_for(hidden)) is not None:
        return kernels.mean_of_rows(hidden, layout)
    if hidden.is_cuda:  # one kernel, which sums each sequence in its order
        return torch.segment_reduce(hidden, "mean", offsets=layout.cu_seqlens.long(), axis=0)
    # Neighbours of equal length share a call.
    runs = (hidden[first : first + count * length].view(count, length, -1) for first, count, length in layout.runs())
    return torch.cat([run.mean(dim=1) for run in runs])
