"""From hidden states to one vector a sequence."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from inlay.ops.layout import Layout
from inlay.types import Pooling


def pool(hidden: Tensor, layout: Layout, pooling: Pooling) -> Tensor:
    """hidden [T, width] → [B, width] in float32. Last and first are found by length, never by a token id."""
    starts = layout.cu_seqlens[:-1].long()
    ends = layout.cu_seqlens[1:].long()
    if pooling is Pooling.CLS:
        return hidden[starts].float()
    if pooling is Pooling.LAST:
        return hidden[ends - 1].float()
    return torch.stack([hidden[start:end].float().mean(dim=0) for start, end in pairwise(layout.offsets)])
