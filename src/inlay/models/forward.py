"""What every forward pass is: a module that turns packed token ids into hidden states.

Modules are built without memory and then take over the mapped weights, so attribute names are the
checkpoint's own, after `RENAMES`. Parameters that must stay in float32 (norms) are made so here. `prepare` then
turns the weights into products, in the layout that the device wants.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inlay.errors import ModelError
from inlay.models.lookback import Lookback
from inlay.ops.layout import Layout
from inlay.ops.linear import Product, Weights, make_product
from inlay.ops.norm import add_layer_norm, add_rms_norm
from inlay.ops.rows import Form, Incoming, Rows


class Linear(nn.Module):
    """The weights of y = x Wᵀ (+ b), until a product is made of them."""

    weight_scale: nn.Parameter | None  # of an int8 checkpoint

    def __init__(self, width_in: int, width_out: int, dtype: torch.dtype, *, has_bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_out, width_in, dtype=dtype), requires_grad=False)
        self.register_parameter("weight_scale", None)
        self.bias: nn.Parameter | None = None
        if has_bias:
            self.bias = nn.Parameter(torch.empty(width_out, dtype=dtype), requires_grad=False)


MakeProduct = Callable[[str, Weights], Product]  # from a name and weights


def weights_of(linears: tuple[Linear, ...], multipliers: Tensor | None) -> Weights:
    """The weights of linears that share their input. They let go of them."""
    weights = Weights(
        tuple(linear.weight.data for linear in linears),
        tuple(linear.bias.data for linear in linears if linear.bias is not None),
        tuple(linear.weight_scale.data for linear in linears if linear.weight_scale is not None),
        multipliers,
    )
    for linear in linears:
        del linear.weight
        linear.bias = linear.weight_scale = None
    return weights


class Table(nn.Module):
    """Rows looked up by id, given back in float32: what follows is a sum or the residual stream."""

    def __init__(self, rows: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width, dtype=dtype), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.weight).float()


class Part(nn.Module, ABC):
    """A part of a layer that has products of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.products: dict[str, Product] = {}  # filled by `ForwardPass.prepare`

    @abstractmethod
    def shares(self) -> Mapping[str, tuple[Linear, ...]]:
        """Its products, each by a name, with the linears that it joins."""


class RMSNorm(nn.Module):
    """See `ops.norm.add_rms_norm`."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width, dtype=torch.float32), requires_grad=False)

    def forward(self, hidden: Tensor, delta: Incoming | None, to: Form) -> Rows:
        return add_rms_norm(hidden, delta, self.weight, self.eps, to)


class LayerNorm(nn.Module):
    """See `ops.norm.add_layer_norm`."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width, dtype=torch.float32), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(width, dtype=torch.float32), requires_grad=False)

    def forward(self, hidden: Tensor, delta: Incoming | None, to: Form) -> Rows:
        return add_layer_norm(hidden, delta, self.weight, self.bias, self.eps, to)


@dataclass(frozen=True, slots=True)
class Packed:
    """Where the rows of a packed batch come from, and which of them are wanted in the end."""

    positions: Tensor  # [T], each sequence from 0
    layout: Layout
    pooled: Tensor | None  # [B], the one row of each sequence that is wanted, which sees all others; None: all rows
    lookback: Lookback | None = None  # what comes before the rows of each sequence

    def only_pooled(self, x: Tensor) -> Tensor:
        return x if self.pooled is None else x[self.pooled]

    def only_pooled_rows(self, x: Rows) -> Rows:
        if self.pooled is None:
            return x
        scales = None if x.scales is None else x.scales[self.pooled]
        return replace(x, values=x.values[self.pooled], scales=scales)

    def queries(self) -> Layout:
        """The rows that are wanted, by sequence."""
        return self.layout if self.pooled is None else Layout.of_one_row_each(self.pooled)

    def keys(self, layer: int, k: Tensor, v: Tensor, *, only_pooled: bool = False) -> tuple[Tensor, Tensor, Layout]:
        """All keys and values that the queries of a layer may see, and where they lie."""
        if self.lookback is None:
            return k, v, self.layout
        return self.lookback.join(layer, k, v, only_pooled=only_pooled)


class ForwardPass(nn.Module, ABC):
    """Base of the families. `config` is config.json; `dtype` is that of products and tables."""

    PREFIXES: ClassVar[tuple[str, ...]] = ()  # wrappers' names for the whole model, cut from tensor names
    RENAMES: ClassVar[Mapping[str, str]] = {}  # parts of tensor names → parts of attribute names
    IGNORED: ClassVar[tuple[str, ...]] = ()  # beginnings of tensor names that no vector depends on
    IS_CAUSAL: ClassVar[bool]  # does a token see only those before it

    @abstractmethod
    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__()

    def parts(self) -> Iterator[Part]:
        """In the order in which they run."""
        return (module for module in self.modules() if isinstance(module, Part))

    def prepare(self, make: MakeProduct = lambda name, weights: make_product(weights)) -> None:
        """Turn the loaded weights into products. Called once, before the first `forward`."""
        for path, part in self.named_modules():
            if isinstance(part, Part):
                for name, linears in part.shares().items():
                    multipliers = getattr(part, f"{name}_multipliers", None)
                    part.products[name] = make(f"{path}.{name}", weights_of(linears, multipliers))

    @abstractmethod
    def forward(self, ids: Tensor, packed: Packed) -> Tensor:
        """ids [T] → hidden states in float32: [B, width] of the pooled rows, or [T, width] of all."""

    def forward_in_pieces(self, ids: Tensor, positions: Tensor) -> Generator[None, None, Tensor]:
        """`forward` of one long sequence for its last row [1, width]; yields between pieces. For causal models."""
        raise NotImplementedError(f"{type(self).__name__} sees the whole input at once")

    def key_value_bytes(self, dtype: torch.dtype) -> int:
        """Of one token in all layers; for causal models."""
        raise NotImplementedError(f"{type(self).__name__} keeps no keys and values")

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
