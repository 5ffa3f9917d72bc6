"""What the distance between two tokens adds to their score, where a family has no table of positions for it.

Out: a table [heads, 2 · longest + 1] in float32, as `ops.attention` takes it: column longest + n is for a key n
positions behind its query.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

BUCKETS, FURTHEST = 32, 128  # of MPNet, whose code has no others


class DistanceBias:
    """A table that is made when it is first asked for, from weights that are loaded by then."""

    def __init__(self, make: Callable[[torch.device], Tensor]) -> None:
        self._make = make
        self._table: Tensor | None = None

    def on(self, device: torch.device) -> Tensor:
        if self._table is None:
            self._table = self._make(device)
        return self._table


def bucket_bias(weight: Tensor, longest: int) -> Tensor:
    """From a row [heads] of each of 32 buckets of distances, finer where they are near (Raffel et al. 2020).

    Of all 32, half are for keys before the query, and half for those behind; half of each for single distances.
    """
    distances = torch.arange(-longest, longest + 1, device=weight.device)
    half, exact = BUCKETS // 2, BUCKETS // 4
    far = distances.abs()
    logarithmic = torch.log(far.clamp_min(1).float() / exact) / math.log(FURTHEST / exact) * (half - exact)
    bucket = torch.where(far < exact, far, (exact + logarithmic.long()).clamp_max(half - 1))
    return weight[bucket + (distances > 0) * half].float().T.contiguous()


def alibi_bias(num_heads: int, longest: int, device: torch.device) -> Tensor:
    """−distance · slope of the head, on both sides alike (Press et al. 2022, with their slopes)."""
    slopes = torch.tensor(alibi_slopes(num_heads), device=device)
    distances = torch.arange(-longest, longest + 1, device=device).abs().float()
    return (-slopes[:, None] * distances).contiguous()


def alibi_slopes(num_heads: int) -> list[float]:
    """2^(−8k / n), k = 1 … n; for n that is no power of 2 those of the next lower, then every second of twice that."""
    lower = 1 << (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * k / lower) for k in range(1, lower + 1)]
    between = [2.0 ** (-8 * k / (2 * lower)) for k in range(1, 2 * lower + 1, 2)]
    return slopes + between[: num_heads - lower]
