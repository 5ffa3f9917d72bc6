"""The parts that layers are made of: weights under the checkpoint's own names, and the steps between two products.

A norm or an activation is given the projection that it feeds when it is made, and gives rows in the form which that
projection takes; so no forward pass names a dtype. Modules are built without memory and then take over the mapped
weights. Parameters that must stay in float32 (norms) are made so here.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from inlay.models.stream import Stream
from inlay.ops.activation import activate, gated_product
from inlay.ops.convert import rows_in, tensor_of
from inlay.ops.embedding import look_up
from inlay.ops.linear import Product, Weights
from inlay.ops.norm import add_layer_norm, add_rms_norm
from inlay.ops.rows import FULL, Form, Rows


class Linear(nn.Module):
    """The weights of y = x Wᵀ (+ b), as the checkpoint has them, until a projection takes them over."""

    weight_scale: nn.Parameter | None  # of an int8 checkpoint

    def __init__(self, width_in: int, width_out: int, dtype: torch.dtype, *, has_bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_out, width_in, dtype=dtype), requires_grad=False)
        self.register_parameter("weight_scale", None)
        self.bias: nn.Parameter | None = None
        if has_bias:
            self.bias = nn.Parameter(torch.empty(width_out, dtype=dtype), requires_grad=False)


class Projection:
    """One product of the linears that share an input; their outputs lie side by side.

    `ForwardPass.prepare` turns the weights into the product that is fastest on the device.
    """

    def __init__(self, *linears: Linear) -> None:
        self.linears = linears
        self.dtype = linears[0].weight.dtype  # of a plain result
        self.product: Product | None = None

    @property
    def takes(self) -> Form:
        """The form that its input must have."""
        return self._made().takes

    def __call__(self, x: Rows | Tensor) -> Rows:
        """x [T, in], rows from what feeds it or any tensor → [T, out of all linears]."""
        product = self._made()
        return product(x if isinstance(x, Rows) else rows_in(x, product.takes))

    def plain(self, x: Rows | Tensor) -> Tensor:
        """The same as a tensor in the model's dtype: for queries, keys and values, views of one such tensor will do."""
        return tensor_of(self(x), self.dtype)

    def take_weights(self, multipliers: Tensor | None) -> Weights:
        """The weights, of which the linears let go. `multipliers` are those of an int8 checkpoint."""
        weights = Weights(
            tuple(linear.weight.data for linear in self.linears),
            tuple(linear.bias.data for linear in self.linears if linear.bias is not None),
            tuple(linear.weight_scale.data for linear in self.linears if linear.weight_scale is not None),
            multipliers,
        )
        for linear in self.linears:
            del linear.weight
            linear.bias = linear.weight_scale = None
        return weights

    def _made(self) -> Product:
        if self.product is None:
            raise RuntimeError("the model was not prepared")
        return self.product


def multipliers_name(projection: str) -> str:
    """The parameter with which an int8 checkpoint multiplies what a projection takes."""
    return f"{projection}_multipliers"


class Table(nn.Module):
    """Rows looked up by id, given back in float32: what follows is a sum or the residual stream."""

    def __init__(self, rows: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width, dtype=dtype), requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        return look_up((self.weight, ids))


class RMSNorm(nn.Module):
    """Adds to the stream what waits, and gives x / √(mean(x²) + eps) · weight; the stream keeps the sum."""

    def __init__(self, width: int, eps: float, feeds: Projection | None = None) -> None:
        super().__init__()
        self.eps = eps
        self.feeds = feeds  # None: the result is plain float32
        self.weight = nn.Parameter(torch.empty(width, dtype=torch.float32), requires_grad=False)

    def forward(self, stream: Stream) -> Rows:
        return add_rms_norm(stream.hidden, stream.take(), self.weight, self.eps, _form(self.feeds))

    def of(self, x: Rows) -> Rows:
        """The same of rows that are not in the stream yet, in plain float32."""
        return add_rms_norm(tensor_of(x, torch.float32), None, self.weight, self.eps, FULL)


class LayerNorm(nn.Module):
    """Adds to the stream what waits, and makes it (x − mean) / √(var + eps) · weight + bias (post-norm)."""

    KEEPS_SUM: ClassVar[bool] = False

    def __init__(self, width: int, eps: float, feeds: Projection | None = None, *, has_bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.feeds = feeds  # None: the result is plain float32
        self.weight = nn.Parameter(torch.empty(width, dtype=torch.float32), requires_grad=False)
        self.bias: nn.Parameter | None = None
        if has_bias:
            self.bias = nn.Parameter(torch.empty(width, dtype=torch.float32), requires_grad=False)
        self._no_bias: Tensor | None = None

    def forward(self, stream: Stream) -> Rows:
        parameters = (self.weight, self._bias(), self.eps)
        to = _form(self.feeds)
        return add_layer_norm(stream.hidden, stream.take(), *parameters, to, keeps_sum=self.KEEPS_SUM)

    def _bias(self) -> Tensor:
        if self.bias is not None:
            return self.bias
        if self._no_bias is None:
            self._no_bias = torch.zeros_like(self.weight)
        return self._no_bias


class PreLayerNorm(LayerNorm):
    """The same of the stream, which is left the sum (pre-norm)."""

    KEEPS_SUM: ClassVar[bool] = True


class Activation:
    """function(x) for each value; see `ops.activation.ACTIVATIONS` for the names."""

    def __init__(self, function: str, feeds: Projection) -> None:
        self._function = function
        self._feeds = feeds

    def __call__(self, x: Rows) -> Rows:
        return activate(x, self._function, self._feeds.takes)


class GatedProduct:
    """x [T, 2 · width], a gate beside what goes through it → function(gate) · the other half."""

    def __init__(self, function: str, feeds: Projection, *, is_gate_first: bool = True) -> None:
        self._function = function
        self._feeds = feeds
        self._is_gate_first = is_gate_first

    def __call__(self, x: Rows) -> Rows:
        return gated_product(x, self._function, self._feeds.takes, is_gate_first=self._is_gate_first)


def _form(feeds: Projection | None) -> Form:
    return FULL if feeds is None else feeds.takes
