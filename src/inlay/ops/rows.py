"""Activations between two products, in the form that the next one takes.

In float32 or bfloat16 they are plain. Before an int8 product they are bytes with one scale a row; after it they
are sums that still want that scale and the product's bias, which the next op applies on its way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ZERO_POINT = 128  # the byte that stands for 0: oneDNN's fast products take unsigned activations
LARGEST_BYTE = 127.0


@dataclass(frozen=True, slots=True)
class Form:
    """What a product takes: a dtype, and for bytes what each column is multiplied by beforehand."""

    dtype: torch.dtype
    multipliers: Tensor | None = None  # [width]; the weights hold their inverse

    @property
    def is_bytes(self) -> bool:
        return self.dtype == torch.uint8


FULL = Form(torch.float32)


@dataclass(frozen=True, slots=True)
class Rows:
    """Values [rows, width]; each stands for value · scale + bias, and a byte for byte − 128."""

    values: Tensor
    scales: Tensor | None = None  # [rows]
    bias: Tensor | None = None  # [width]

    def full(self) -> Tensor:
        """What they stand for, in float32."""
        x = self.values.float()
        if self.values.dtype == torch.uint8:
            x = x - ZERO_POINT
        if self.scales is not None:
            x = x * self.scales[:, None]
        return x if self.bias is None else x + self.bias.float()

    @classmethod
    def of(cls, x: Tensor, to: Form) -> Rows:
        """Plain rows in a dtype; to bytes symmetrically, by the largest magnitude of each row."""
        if not to.is_bytes:
            return cls(x.to(to.dtype))
        x = x.float() if to.multipliers is None else x.float() * to.multipliers
        largest = x.abs().amax(dim=1)
        inverse = torch.where(largest > 0, LARGEST_BYTE / largest, 0.0)
        values = (x * inverse[:, None]).round() + ZERO_POINT
        return cls(values.to(torch.uint8), largest / LARGEST_BYTE)
