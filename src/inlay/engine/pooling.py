"""From hidden states to one vector a sequence. Last and first rows are found by length, never by a token id."""

from __future__ import annotations

import torch
from torch import Tensor

from inlay.ops.layout import Layout
from inlay.types import Pooling


def pooled_rows(layout: Layout, pooling: Pooling) -> Tensor | None:
    """The row that is each sequence's vector, [B]; None where all its rows make it."""
    if pooling is Pooling.MEAN:
        return None
    return layout.cu_seqlens[:-1].long() if pooling is Pooling.CLS else layout.cu_seqlens[1:].long() - 1


def mean_of_rows(hidden: Tensor, layout: Layout) -> Tensor:
    """hidden [T, width] in float32 → the mean of each sequence, [B, width]. Neighbours of equal length share a call."""
    if hidden.device.type == "cuda":  # one kernel, which sums each sequence in its order
        return torch.segment_reduce(hidden, "mean", offsets=layout.cu_seqlens.long(), axis=0)
    runs = (hidden[first : first + count * length].view(count, length, -1) for first, count, length in layout.runs())
    return torch.cat([run.mean(dim=1) for run in runs])
