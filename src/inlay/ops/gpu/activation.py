"""The nonlinear step between two products. A program has a whole row where it must find the row's scale."""

import triton
import triton.language as tl

from inlay.ops.gpu.rows import write_row

SQRT_HALF = tl.constexpr(0.7071067811865476)
SQRT_TWO_BY_PI = tl.constexpr(0.7978845608028654)
CUBIC = tl.constexpr(0.044715)


@triton.jit
def silu_product(x, out, scales, WIDTH: tl.constexpr, IS_FP8: tl.constexpr, BLOCK: tl.constexpr):
    """x [T, 2 · WIDTH] → silu(first half) · second half."""
    row = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    start = x + row.to(tl.int64) * (2 * WIDTH) + columns
    gate = tl.load(start, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(start + WIDTH, mask=inside, other=0.0).to(tl.float32)
    y = gate / (1.0 + tl.exp(-gate)) * up
    write_row(out, scales, row, columns, inside, y, WIDTH, IS_FP8)


@triton.jit
def activate(
    x, bias, out, scales,
    WIDTH: tl.constexpr, FUNCTION: tl.constexpr, HAS_BIAS: tl.constexpr, IS_FP8: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """function(x + bias) for each value; the numbers of functions are those of `ops.activation`."""
    row = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    y = tl.load(x + row.to(tl.int64) * WIDTH + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        y += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    if FUNCTION == 1:
        y = 0.5 * y * (1.0 + tl.erf(y * SQRT_HALF))
    elif FUNCTION == 2:
        inner = SQRT_TWO_BY_PI * (y + CUBIC * y * y * y)
        y = y * tl.sigmoid(2.0 * inner)  # = y / 2 · (1 + tanh(inner))
    elif FUNCTION == 3:
        y = tl.maximum(y, 0.0)
    y = tl.where(inside, y, 0.0)
    write_row(out, scales, row, columns, inside, y, WIDTH, IS_FP8)
