"""Activations between two products, in the form that the next one takes.

In float32 or bfloat16 they are plain. Before an int8 product they are bytes with one scale a row; after it they
are sums that still want that scale and the product's bias, which the next op applies on its way. Rows of a product
of ours are `Pending`: the op that takes them computes them where it needs them, while they are in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ZERO_POINT = 128  # the byte that stands for 0, unless a form says otherwise; products take unsigned activations
LARGEST_BYTE = 255


@dataclass(frozen=True, slots=True)
class Form:
    """What a product takes: a dtype, and for bytes what they stand for.

    Behind an activation such as GELU nearly all of a row lies above 0, and so does most of the bytes' range with a low
    zero point.
    """

    dtype: torch.dtype
    multipliers: Tensor | None = None  # [width], of each column beforehand; the weights hold their inverse
    zero_point: int = ZERO_POINT

    @property
    def is_bytes(self) -> bool:
        return self.dtype == torch.uint8

    def multiplied(self, x: Tensor) -> Tensor:
        """x [rows, width] in float32, before it is rounded to bytes."""
        return x.float() if self.multipliers is None else x.float() * self.multipliers

    def scales(self, above: Tensor, below: Tensor) -> Tensor:
        """The least scale of each row with which its bytes hold all of it; see `extents`."""
        return torch.maximum(above / (LARGEST_BYTE - self.zero_point), below / (self.zero_point - 1))


FULL = Form(torch.float32)


def extents(x: Tensor) -> tuple[Tensor, Tensor]:
    """How far each row of x [rows, width] goes above 0, and how far below."""
    return x.amax(dim=1).clamp_min(0.0), (-x.amin(dim=1)).clamp_min(0.0)


@dataclass(frozen=True, slots=True)
class Rows:
    """Values [rows, width]; each stands for value · scale + bias, and a byte for byte − zero point."""

    values: Tensor
    scales: Tensor | None = None  # [rows]
    bias: Tensor | None = None  # [width]
    zero_point: int = ZERO_POINT

    @property
    def shape(self) -> tuple[int, int]:
        rows, width = self.values.shape
        return rows, width

    def full(self) -> Tensor:
        """What they stand for, in float32."""
        x = self.values.float()
        if self.values.dtype == torch.uint8:
            x = x - self.zero_point
        if self.scales is not None:
            x = x * self.scales[:, None]
        return x if self.bias is None else x + self.bias.float()

    @classmethod
    def of(cls, x: Tensor, to: Form) -> Rows:
        """Plain rows in a dtype; to bytes with a scale for each row."""
        if not to.is_bytes:
            return cls(x.to(to.dtype))
        x = to.multiplied(x)
        scales = to.scales(*extents(x))
        inverse = torch.where(scales > 0, 1 / scales, 0.0)
        values = (x * inverse[:, None]).round() + to.zero_point
        return cls(values.clamp(0, LARGEST_BYTE).to(torch.uint8), scales, zero_point=to.zero_point)


@dataclass(frozen=True, slots=True)
class Panels:
    """A weight as the compiled product wants it: words of 32 bits along `in`, a panel of outputs at a time."""

    words: Tensor  # [panels, in / step, outputs of a panel] int32
    width_out: int
    dtype: torch.dtype  # of what it multiplies
    starts: Tensor | None = None  # [all panels' outputs] int32, for bytes: −zero point · sum of the weights
    channels: Tensor | None = None  # [all panels' outputs] float32, for bytes: scales


@dataclass(frozen=True, slots=True)
class Pending:
    """Rows [rows, width_out] of a product that is still to be computed, and then want what `Rows` may want."""

    x: Tensor  # [rows, in]
    panels: Panels
    scales: Tensor | None  # [rows]
    bias: Tensor | None  # [width_out]
    dtype: torch.dtype  # what they are rounded to when they are finished
    compute: Callable[[Pending], Tensor]  # [rows, width_out], in float32

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.x), self.panels.width_out

    def computed(self) -> Rows:
        """The same bits that an op would have computed on its way."""
        return Rows(self.compute(self), self.scales, self.bias)


Incoming = Rows | Pending


def computed(x: Incoming) -> Rows:
    """Rows that are there."""
    return x.computed() if isinstance(x, Pending) else x
