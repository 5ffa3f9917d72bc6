"""The nonlinear step between the two products of a layer's second half."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn.functional import gelu, relu, silu

from inlay.ops.dispatch import kernels_for
from inlay.ops.rows import Form, Rows

_TANH_GELU = partial(gelu, approximate="tanh")
NONE = "none"
# Name → number in the kernels, and the reference.
ACTIVATIONS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    NONE: (0, lambda x: x),
    "gelu": (1, gelu),
    "gelu_new": (2, _TANH_GELU),
    "gelu_pytorch_tanh": (2, _TANH_GELU),
    "relu": (3, relu),
    "silu": (4, silu),
    "swish": (4, silu),
}
FUNCTIONS = tuple(name for name in ACTIVATIONS if name != NONE)  # that a model may ask for


def activate(x: Rows, function: str, to: Form) -> Rows:
    """function(x) for each value; `none` only applies what x still wants."""
    number, reference = ACTIVATIONS[function]
    if (kernels := kernels_for(x, to.dtype)) is not None:
        return kernels.activate(x, number, to)
    return Rows.of(reference(x.full()), to)


def gated_product(x: Rows, function: str, to: Form, *, is_gate_first: bool = True) -> Rows:
    """x [T, 2 · width], a gate and what goes through it → function(gate) · the other half (Shazeer 2020)."""
    number, reference = ACTIVATIONS[function]
    if x.bias is None and (kernels := kernels_for(x, to.dtype)) is not None:
        return kernels.gated_product(x, number, to, is_gate_first=is_gate_first)
    first, second = x.full().chunk(2, dim=-1)
    return Rows.of(reference(first) * second if is_gate_first else first * reference(second), to)
