"""Activations between two products: one lazy noun, in the form that the next product takes.

`Rows` are a tensor, or a tensor times a weight, which the op that takes them computes where it needs it, while it is
in the cache. In float32 or bfloat16 they are plain. Before an int8 product they are bytes with one scale a row; after
it they are sums that still want that scale and the product's bias, which the next op applies on its way. Before an FP8
product they have one scale a row, too; behind it they are plain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ZERO_POINT = 128  # the byte that stands for 0, unless a form says otherwise; products take unsigned activations
LARGEST_BYTE = 255
FP8 = torch.float8_e4m3fn
LARGEST_FP8 = 448.0
SMALLEST_PEAK = 1e-12  # a row of zeros has a scale in FP8 all the same


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
class Panels:
    """A weight as the compiled product wants it: words of 32 bits along `in`, a panel of outputs at a time."""

    words: Tensor  # [panels, in / step, outputs of a panel] int32
    width_out: int
    dtype: torch.dtype  # that it is kept in; uint8 stands for bytes
    out: torch.dtype  # what results are rounded to where they are not used at once
    multiply: Callable[[Rows], Tensor]  # [rows, width_out] in float32, where no op computes them on its way
    starts: Tensor | None = None  # [all panels' outputs] int32, for bytes: −zero point · sum of the weights
    channels: Tensor | None = None  # [all panels' outputs] float32, for bytes: scales


@dataclass(frozen=True, slots=True)
class Rows:
    """Values [rows, width]; each stands for value · scale + bias, and a byte for byte − zero point.

    With `panels` they are values [rows, in] times that weight, still to be computed.
    """

    values: Tensor
    scales: Tensor | None = None  # [rows]
    bias: Tensor | None = None  # [width]
    zero_point: int = ZERO_POINT
    panels: Panels | None = None
    rounded_to: torch.dtype | None = None  # where an op leaves them as they are; None: what they are in

    @property
    def shape(self) -> tuple[int, int]:
        rows, width = self.values.shape
        return rows, width if self.panels is None else self.panels.width_out

    @property
    def dtype(self) -> torch.dtype:
        """What ops leave the values in that only pass them on."""
        if self.panels is not None:
            return self.panels.out
        return self.rounded_to or self.values.dtype

    def computed(self) -> Rows:
        """The same with the values there: the bits that an op would have computed on its way."""
        if self.panels is None:
            return self
        return Rows(self.panels.multiply(self), self.scales, self.bias, rounded_to=self.panels.out)

    def full(self) -> Tensor:
        """What they stand for, in float32."""
        there = self.computed()
        x = there.values.float()
        if there.values.dtype == torch.uint8:
            x = x - there.zero_point
        if there.scales is not None:
            x = x * there.scales[:, None]
        return x if there.bias is None else x + there.bias.float()

    @classmethod
    def of(cls, x: Tensor, to: Form) -> Rows:
        """Plain rows in a dtype; to bytes and FP8 with a scale for each row."""
        if to.dtype == FP8:
            peaks = x.float().abs().amax(dim=1).clamp_min(SMALLEST_PEAK)
            scales = peaks / torch.full_like(peaks, LARGEST_FP8)  # by a number a GPU multiplies with the inverse
            return cls((x.float() / scales[:, None]).to(FP8), scales)
        if not to.is_bytes:
            return cls(x.to(to.dtype))
        x = to.multiplied(x)
        scales = to.scales(*extents(x))
        inverse = torch.where(scales > 0, 1 / scales, 0.0)
        values = (x * inverse[:, None]).round() + to.zero_point
        return cls(values.clamp(0, LARGEST_BYTE).to(torch.uint8), scales, zero_point=to.zero_point)
