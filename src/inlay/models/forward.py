"""What every forward pass is: a module that turns a plan into hidden states.

Attribute names are the checkpoint's own, after `RENAMES`. `prepare` turns the weights into products, in the layout
that the device wants. `Decoder` is what causal families share: layer after layer over one residual stream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inlay.errors import ModelError
from inlay.models.parts import Projection, RMSNorm, Table, multipliers_name
from inlay.models.plan import Plan
from inlay.models.stream import Stream
from inlay.ops.linear import Product, Weights, make_product

MakeProduct = Callable[[str, Weights], Product]  # from a name and weights


class ForwardPass(nn.Module, ABC):
    """Base of the families. `config` is config.json; `dtype` is that of products and tables."""

    WRAPPERS: ClassVar[tuple[str, ...]] = ()  # wrappers' names for the whole model, cut from tensor names
    RENAMES: ClassVar[Mapping[str, str]] = {}  # parts of tensor names → of attribute names, which stay as they are
    IGNORED: ClassVar[tuple[str, ...]] = ()  # beginnings of tensor names that no answer depends on
    is_causal: bool  # does a token see only those before it

    @abstractmethod
    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, plan: Plan) -> Tensor:
        """Hidden states in float32: [B, width] of the wanted rows, or [T, width] of all."""

    def projections(self) -> Iterator[tuple[str, nn.Module, Projection]]:
        """Each with its full name and the module that it belongs to, in the order in which they are made."""
        for path, module in self.named_modules():
            own = set(module.children())
            for name, value in vars(module).items():
                if isinstance(value, Projection) and own.issuperset(value.linears):  # not one that a norm feeds
                    yield f"{path}.{name}", module, value

    def prepare(self, make: MakeProduct = lambda name, weights: make_product(weights)) -> None:
        """Turn the loaded weights into products. Called once, before the first `forward`."""
        for name, module, projection in self.projections():
            multipliers = getattr(module, multipliers_name(name.rpartition(".")[2]), None)
            projection.product = make(name, projection.take_weights(multipliers))

    @classmethod
    def attribute_name(cls, tensor_name: str) -> str | None:
        """Where a checkpoint's tensor belongs; None for tensors that are not needed."""
        for wrapper in cls.WRAPPERS:
            tensor_name = tensor_name.removeprefix(wrapper)
        if tensor_name.startswith(cls.IGNORED):
            return None
        for old, new in cls.RENAMES.items():
            tensor_name = tensor_name.replace(old, new)
        return tensor_name


class Decoder(ForwardPass):
    """A causal model: `begin`, then layers `layer(stream, plan)` one after the other, then `end`.

    A family fills the attributes, and overrides `begin` and `end` where they differ. Not `forward`: long inputs run the
    same three in pieces (`engine.pieces`). Keys and values of a shared prefix are kept, too; a causal family that is no
    `Decoder` is right, but has neither.
    """

    is_causal: bool = True
    embed_tokens: Table
    layers: nn.ModuleList
    norm: RMSNorm
    heads: tuple[int, int, int]  # heads, kv_heads, head_dim

    def __init_subclass__(cls, **arguments: Any) -> None:  # noqa: ANN401
        super().__init_subclass__(**arguments)
        if "forward" in vars(cls):
            raise TypeError(f"{cls.__name__} is a Decoder and overrides forward: override begin or end")

    def begin(self, ids: Tensor, positions: Tensor) -> Tensor:
        """The hidden states [T, width] with which the first layer begins, in float32."""
        hidden: Tensor = self.embed_tokens(ids)
        return hidden

    def end(self, stream: Stream) -> Tensor:
        """The hidden states that the heads take, in float32."""
        hidden: Tensor = self.norm(stream).values
        return hidden

    def key_value_bytes(self, dtype: torch.dtype) -> int:
        """Of one token in all layers."""
        _, kv_heads, head_dim = self.heads
        return 2 * len(self.layers) * kv_heads * head_dim * dtype.itemsize

    def forward(self, plan: Plan) -> Tensor:
        stream = plan.stream(self.begin(plan.ids, plan.positions))
        for layer in self.layers:
            layer(stream, plan)
        return self.end(stream)


def require_divisor(config: Mapping[str, Any], key: str, total: str) -> None:
    """Refuse a config in which `key` does not divide `total`."""
    if config[key] <= 0 or config[total] % config[key]:
        raise ModelError(f"config.json: {key}={config[key]} does not divide {total}={config[total]}")


def require(config: Mapping[str, Any], key: str, *allowed: object) -> None:
    """Refuse a config whose `key` asks for something that the forward pass does not do."""
    if config.get(key) not in (None, *allowed):
        wanted = " or ".join(repr(value) for value in allowed)
        raise ModelError(f"config.json: {key}={config[key]!r} is not supported (only {wanted})")
