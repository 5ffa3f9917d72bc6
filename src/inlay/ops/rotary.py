"""Rotary position embedding in the rotate-half form (Su et al. 2021, as Qwen and Llama store it)."""

from __future__ import annotations

import torch
from torch import Tensor


class RotaryTable:
    """Cosines and sines of every position, computed once.

    Looked up and not computed for each batch: vectorised cosines differ in the last bit with the place
    in the array, and a position's angle must not depend on the batch.
    """

    def __init__(self, num_positions: int, head_dim: int, theta: float) -> None:
        self._shape = (num_positions, head_dim, theta)
        self._tables: tuple[Tensor, Tensor] | None = None

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines for positions [T], each [T, 1, head_dim / 2] in float32."""
        if self._tables is None:
            self._tables = self._compute(positions.device)
        cos, sin = self._tables
        return cos[positions], sin[positions]

    def _compute(self, device: torch.device) -> tuple[Tensor, Tensor]:
        num_positions, head_dim, theta = self._shape
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
        positions = torch.arange(num_positions, dtype=torch.float32, device=device)
        angles = positions[:, None, None] * (1.0 / theta**exponents)  # [positions, 1, head_dim / 2]
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + head_dim / 2]) of x [T, heads, head_dim] by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
