"""Residual sums with the normalisation behind them: one program a row, which is read and written once."""

import triton
import triton.language as tl

from inlay.ops.gpu.rows import write_row


@triton.jit
def add_rms_norm(
    hidden, delta, weight, out, scales, eps,
    WIDTH: tl.constexpr, HAS_DELTA: tl.constexpr, IS_FP8: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """hidden += delta, in place; out = hidden / √(mean(hidden²) + eps) · weight."""
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    start = row.to(tl.int64) * WIDTH
    x = tl.load(hidden + start + columns, mask=inside, other=0.0)
    if HAS_DELTA:
        x += tl.load(delta + start + columns, mask=inside, other=0.0).to(tl.float32)
        tl.store(hidden + start + columns, x, mask=inside)
    factor = tl.rsqrt(tl.sum(x * x, axis=0) / WIDTH + eps)
    y = x * factor * tl.load(weight + columns, mask=inside, other=0.0)
    write_row(out, scales, row, columns, inside, y, WIDTH, IS_FP8)


@triton.jit
def add_layer_norm(
    hidden, delta, weight, bias, out, scales, eps,
    WIDTH: tl.constexpr, HAS_DELTA: tl.constexpr, KEEPS_SUM: tl.constexpr, IS_FP8: tl.constexpr,
    HAS_OUT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(x − mean(x)) / √(var(x) + eps) · weight + bias of x = hidden + delta to out; hidden becomes x, or the same."""
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    start = row.to(tl.int64) * WIDTH
    x = tl.load(hidden + start + columns, mask=inside, other=0.0)
    if HAS_DELTA:
        x += tl.load(delta + start + columns, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=0) / WIDTH
    centred = tl.where(inside, x - mean, 0.0)
    factor = tl.rsqrt(tl.sum(centred * centred, axis=0) / WIDTH + eps)
    y = centred * factor * tl.load(weight + columns, mask=inside, other=0.0)
    y += tl.load(bias + columns, mask=inside, other=0.0)
    tl.store(hidden + start + columns, x if KEEPS_SUM else y, mask=inside)
    if HAS_OUT:
        write_row(out, scales, row, columns, inside, y, WIDTH, IS_FP8)
