"""How every kernel writes a row: in the dtype of its target, or as FP8 with a scale of its own.

A program has a whole row in its registers, so a row's result never depends on the rows beside it.
"""

import triton
import triton.language as tl

LARGEST_FP8 = tl.constexpr(448.0)  # of e4m3
SMALLEST_PEAK = tl.constexpr(1e-12)  # a row of zeros has a scale all the same


@triton.jit
def write_row(out, scales, row, columns, inside, y, WIDTH: tl.constexpr, IS_FP8: tl.constexpr):
    """y [BLOCK] in float32, zero where it is not `inside`, to row `row` of out [rows, WIDTH]."""
    if IS_FP8:
        scale = tl.maximum(tl.max(tl.abs(y), axis=0), SMALLEST_PEAK) / LARGEST_FP8
        tl.store(scales + row, scale)
        y = y / scale
    tl.store(out + row.to(tl.int64) * WIDTH + columns, y.to(out.dtype.element_ty), mask=inside)
