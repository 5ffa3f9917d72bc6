"""Rows as the compiled kernels see them: addresses, strides, and numbers for dtypes.

In: tensors on a CPU whose rows are contiguous. Out: what `ctypes` hands over. Whoever calls keeps the tensors alive
until the kernel is done.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from inlay.ops.rows import Form, Rows

FLOAT32, BFLOAT16, BYTES = 0, 1, 2
WORD = 4  # bytes
CACHE_WAY, LINE = 4096, 64  # bytes; rows that lie a multiple of CACHE_WAY apart share one set of the nearest cache
CODES = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.uint8: BYTES}
INTEGER, FLAG, REAL, ADDRESS = ctypes.c_int64, ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


class Input(ctypes.Structure):
    """The kernels' `Input`."""

    _fields_ = (
        ("data", ADDRESS),
        ("stride", INTEGER),
        ("scales", ADDRESS),
        ("width", INTEGER),
        ("width_out", INTEGER),
        ("panels", ADDRESS),
        ("starts", ADDRESS),
        ("channels", ADDRESS),
        ("dtype", FLAG),
        ("panel_dtype", FLAG),
    )


class Table(ctypes.Structure):
    """The kernels' `Table`."""

    _fields_ = (("rows", ADDRESS), ("ids", ADDRESS), ("count", INTEGER))


ROWS_IN = (ctypes.POINTER(Input),)
ROWS_OUT = (ADDRESS, INTEGER, ADDRESS, ADDRESS, FLAG, FLAG)


def empty_rows(shape: tuple[int, int], to: Form) -> Rows:
    """Rows in a form, for a kernel to fill."""
    scales = torch.empty(shape[0], dtype=torch.float32) if to.is_bytes else None
    return Rows(spaced_rows(shape, to.dtype), scales, zero_point=to.zero_point)


def spaced_rows(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Uninitialised rows, a line further apart where they would share one set of the cache."""
    rows, width = shape
    if width * dtype.itemsize % CACHE_WAY:
        return torch.empty(rows, width, dtype=dtype)
    return torch.empty(rows, width + LINE // dtype.itemsize, dtype=dtype)[:, :width]


def address(tensor: Tensor | None) -> int | None:
    """None for what is not there."""
    return None if tensor is None else tensor.data_ptr()


def incoming(x: Rows | None) -> Input | None:
    """Rows as a kernel takes them."""
    if x is None:
        return None
    row = (x.values.data_ptr(), x.values.stride(0), address(x.scales), x.values.shape[1])
    if x.panels is None:
        return Input(*row, x.shape[1], None, None, None, CODES[x.values.dtype], FLOAT32)
    panels = x.panels
    weight = (panels.words.data_ptr(), address(panels.starts), address(panels.channels))
    return Input(*row, panels.width_out, *weight, CODES[x.values.dtype], CODES[panels.dtype])


def outgoing(out: Rows, to: Form) -> tuple[int | None, ...]:
    """Where a kernel writes rows: data, stride, scales, multipliers, zero point, dtype."""
    return (
        out.values.data_ptr(),
        out.values.stride(0),
        address(out.scales),
        address(to.multipliers),
        to.zero_point,
        CODES[to.dtype],
    )
