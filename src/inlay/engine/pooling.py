"""From hidden states to one vector a sequence. Last and first rows are found by length, never by a token id."""

from __future__ import annotations

from itertools import pairwise

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
    """hidden [T, width] in float32 → the mean of each sequence, [B, width]."""
    return torch.stack([hidden[start:end].mean(dim=0) for start, end in pairwise(layout.offsets)])
