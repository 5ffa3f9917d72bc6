"""The nonlinear step between two products. A program has a whole row where it must find the row's scale."""

import triton
import triton.language as tl

from inlay.ops.gpu.rows import write_row

SQRT_HALF = tl.constexpr(0.7071067811865476)
SQRT_TWO_BY_PI = tl.constexpr(0.7978845608028654)
CUBIC = tl.constexpr(0.044715)


@triton.jit
def gated_product(
    x, out, scales,
    WIDTH: tl.constexpr, FUNCTION: tl.constexpr, GATE: tl.constexpr, IS_FP8: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x [T, 2 · WIDTH] → function(half that begins at GATE) · the other half."""
    row = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    start = x + row.to(tl.int64) * (2 * WIDTH) + columns
    gate = tl.load(start + GATE, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(start + (WIDTH - GATE), mask=inside, other=0.0).to(tl.float32)
    write_row(out, scales, row, columns, inside, _through(gate, FUNCTION) * up, WIDTH, IS_FP8)


@triton.jit
def _through(x, FUNCTION: tl.constexpr):
    """A function of `ops.activation` by its number."""
    if FUNCTION == 1:
        x = 0.5 * x * (1.0 + tl.erf(x * SQRT_HALF))
    elif FUNCTION == 2:
        inner = SQRT_TWO_BY_PI * (x + CUBIC * x * x * x)
        x = x * tl.sigmoid(2.0 * inner)  # = x / 2 · (1 + tanh(inner))
    elif FUNCTION == 3:
        x = tl.maximum(x, 0.0)
    elif FUNCTION == 4:
        x = x / (1.0 + tl.exp(-x))
    return x


@triton.jit
def activate(
    x, bias, out, scales,
    WIDTH: tl.constexpr, FUNCTION: tl.constexpr, HAS_BIAS: tl.constexpr, IS_FP8: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """function(x + bias) for each value."""
    row = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    y = tl.load(x + row.to(tl.int64) * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        y += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    y = tl.where(inside, _through(y, FUNCTION), 0.0)
    write_row(out, scales, row, columns, inside, y, WIDTH, IS_FP8)
