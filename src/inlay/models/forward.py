"""What every forward pass is: a module that turns packed token ids into hidden states.

Modules are built without memory and then take over the mapped weights, so attribute names are the
checkpoint's own, after `RENAMES`. Parameters that must stay in float32 (norms) are made so here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inlay.errors import ModelError
from inlay.ops.layout import Layout
from inlay.ops.linear import linear
from inlay.ops.norm import layer_norm, rms_norm


class Linear(nn.Module):
    """y = x Wᵀ (+ b)."""

    def __init__(self, width_in: int, width_out: int, dtype: torch.dtype, *, has_bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_out, width_in, dtype=dtype), requires_grad=False)
        self.bias: nn.Parameter | None = None
        if has_bias:
            self.bias = nn.Parameter(torch.empty(width_out, dtype=dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Table(nn.Module):
    """Rows looked up by id, given back in float32: what follows is a sum or the residual stream."""

    def __init__(self, rows: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width, dtype=dtype), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.weight).float()


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width, dtype=torch.float32), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class LayerNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width, dtype=torch.float32), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(width, dtype=torch.float32), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)


class ForwardPass(nn.Module, ABC):
    """Base of the families. `config` is config.json; `dtype` is that of products and tables."""

    PREFIXES: ClassVar[tuple[str, ...]] = ()  # wrappers' names for the whole model, cut from tensor names
    RENAMES: ClassVar[Mapping[str, str]] = {}  # parts of tensor names → parts of attribute names
    IGNORED: ClassVar[tuple[str, ...]] = ()  # beginnings of tensor names that no vector depends on

    @abstractmethod
    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """ids [T], positions [T] (each sequence from 0) → hidden states [T, width] in float32."""

    @classmethod
    def attribute_name(cls, tensor_name: str) -> str | None:
        """Where a checkpoint's tensor belongs; None for tensors that are not needed."""
        for prefix in cls.PREFIXES:
            tensor_name = tensor_name.removeprefix(prefix)
        if tensor_name.startswith(cls.IGNORED):
            return None
        for old, new in cls.RENAMES.items():
            tensor_name = tensor_name.replace(old, new)
        return tensor_name


def require_divisor(config: Mapping[str, Any], key: str, total: str) -> None:
    """Refuse a config in which `key` does not divide `total`."""
    if config[key] <= 0 or config[total] % config[key]:
        raise ModelError(f"config.json: {key}={config[key]} does not divide {total}={config[total]}")


def require(config: Mapping[str, Any], key: str, *allowed: object) -> None:
    """Refuse a config whose `key` asks for something that the forward pass does not do."""
    if config.get(key) not in (None, *allowed):
        wanted = " or ".join(repr(value) for value in allowed)
        raise ModelError(f"config.json: {key}={config[key]!r} is not supported (only {wanted})")
