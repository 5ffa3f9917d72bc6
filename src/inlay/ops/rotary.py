"""Rotary position embedding in the rotate-half form (Su et al. 2021, as Qwen and Llama store it)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from inlay.ops.dispatch import kernels_for
from inlay.ops.rows import Rows


class RotaryTable:
    """Cosines and sines of every position, computed once.

    Looked up and not computed for each batch: vectorised cosines differ in the last bit with the place
    in the array, and a position's angle must not depend on the batch.
    """

    def __init__(self, num_positions: int, head_dim: int, theta: float, factor: float = 1.0) -> None:
        """Angles are position / θ^(2i / head_dim) / factor."""
        self._shape = (num_positions, head_dim, theta, factor)
        self._tables: tuple[Tensor, Tensor] | None = None

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each [positions, head_dim / 2] in float32."""
        if self._tables is None:
            self._tables = self._compute(device)
        return self._tables

    def _compute(self, device: torch.device) -> tuple[Tensor, Tensor]:
        num_positions, head_dim, theta, factor = self._shape
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
        positions = torch.arange(num_positions, dtype=torch.float32, device=device)
        angles = positions[:, None] * (1.0 / theta**exponents / factor)
        return angles.cos(), angles.sin()


def rotate_heads(
    qkv: Rows,
    heads: tuple[int, int, int],
    weights: tuple[Tensor, Tensor] | None,
    eps: float,
    rotary: RotaryTable,
    positions: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of qkv [T, (heads + 2 · kv_heads) · head_dim]; qkv may be overwritten.

    `heads` is (heads, kv_heads, head_dim). Queries and keys are normalised head by head, with `weights`, if there
    are any, and then rotated by their positions [T]. Out: [T, heads, head_dim] and twice [T, kv_heads, head_dim].
    """
    num_heads, kv_heads, head_dim = heads
    if qkv.shape[1] != (num_heads + 2 * kv_heads) * head_dim:
        raise ValueError(f"rows of {qkv.shape[1]} do not hold {num_heads} + 2 · {kv_heads} heads of {head_dim}")
    tables = rotary.on(positions.device)
    parts = [num_heads, kv_heads, kv_heads]
    shape = (len(positions), -1, head_dim)
    if (kernels := kernels_for(qkv)) is not None:
        rotated = kernels.rotate_heads(qkv, heads, weights, eps, tables, positions)
        q, k, v = torch.split(rotated.view(shape), parts, dim=1)
        return q, k, v
    q, k, v = torch.split(qkv.full().view(shape), parts, dim=1)
    cos, sin = (table[positions][:, None] for table in tables)  # [T, 1, head_dim / 2]
    if weights is not None:
        q, k = (F.rms_norm(x, (head_dim,), weight, eps) for x, weight in zip((q, k), weights, strict=True))
    q, k, v = (x.to(qkv.dtype) for x in (_rotate(q, cos, sin), _rotate(k, cos, sin), v))
    return q, k, v


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + head_dim / 2]) of x [T, heads, head_dim] by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
