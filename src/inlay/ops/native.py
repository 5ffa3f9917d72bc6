"""The compiled kernels: finds the build for this processor and calls it on tensors.

In: CPU tensors whose rows are contiguous. Out: tensors; each method is the kernel of the op of that name, and
says nothing that the op does not. The library knows no torch: it gets addresses, and torch's own threads through
`torch_parallel_for` of torch's stable C interface. Where none was built, or the processor has no AVX2, there is none.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from inlay.ops.rows import Form, Incoming, Pending, Rows

FLOAT32, BFLOAT16, BYTES = 0, 1, 2
WORD = 4  # bytes
CACHE_WAY, LINE = 4096, 64  # bytes; rows that lie a multiple of CACHE_WAY apart share one set of the nearest cache
WITH_HALVES = "avx512_bf16"  # the build that multiplies bytes and bfloat16
CODES = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.uint8: BYTES}
_INTEGER, _FLAG, _REAL, _ADDRESS = ctypes.c_int64, ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


class _Input(ctypes.Structure):
    """The kernels' `Input`."""

    _fields_ = (
        ("data", _ADDRESS),
        ("stride", _INTEGER),
        ("scales", _ADDRESS),
        ("width", _INTEGER),
        ("width_out", _INTEGER),
        ("panels", _ADDRESS),
        ("starts", _ADDRESS),
        ("channels", _ADDRESS),
        ("dtype", _FLAG),
    )


_ROWS_IN = (ctypes.POINTER(_Input),)
_ROWS_OUT = (_ADDRESS, _INTEGER, _ADDRESS, _ADDRESS, _FLAG, _FLAG)
SIGNATURES = {
    "add_rms_norm": (_INTEGER, _INTEGER, _ADDRESS, *_ROWS_IN, _ADDRESS, _REAL, *_ROWS_OUT),
    "add_layer_norm": (_INTEGER, _INTEGER, _ADDRESS, *_ROWS_IN, *(_ADDRESS,) * 3, _REAL, *_ROWS_OUT),
    "convert": (_INTEGER, _INTEGER, *_ROWS_IN, *_ROWS_OUT),
    "silu_product": (_INTEGER, _INTEGER, *_ROWS_IN, *_ROWS_OUT),
    "activate": (_INTEGER, _INTEGER, *_ROWS_IN, _ADDRESS, _FLAG, *_ROWS_OUT),
    "rotate_heads": (*(_INTEGER,) * 4, *_ROWS_IN, _ADDRESS, _ADDRESS, _REAL, *(_ADDRESS,) * 4, _FLAG),
    "multiply": (_INTEGER, *_ROWS_IN, _ADDRESS),
    "pack": (_INTEGER, _INTEGER, _ADDRESS, _ADDRESS),
    "attention": (
        *(_INTEGER,) * 4,
        *(_ADDRESS, _INTEGER, _ADDRESS, _ADDRESS, _INTEGER, _FLAG),
        *(_ADDRESS, _ADDRESS, _FLAG, _REAL, _ADDRESS, _INTEGER),
    ),
}


class Kernels:
    """One build of the kernels."""

    def __init__(self, name: str, library: ctypes.CDLL, threads: ctypes.CDLL) -> None:
        self.name = name
        library.inlay_use_threads.argtypes = (_ADDRESS, _INTEGER)
        library.inlay_use_threads(ctypes.cast(threads.torch_parallel_for, _ADDRESS), torch.get_num_threads())
        self._panel = library.inlay_panel()
        self._calls = {}
        for function, signature in SIGNATURES.items():
            call = getattr(library, f"inlay_{function}")
            call.argtypes, call.restype = signature, None
            self._calls[function] = call

    def add_rms_norm(self, hidden: Tensor, delta: Incoming | None, weight: Tensor, eps: float, to: Form) -> Rows:
        out = _empty((len(hidden), hidden.shape[1]), to)
        self._calls["add_rms_norm"](
            *hidden.shape, hidden.data_ptr(), _incoming(delta), weight.data_ptr(), eps, *_outgoing(out, to)
        )
        return out

    def add_layer_norm(
        self, hidden: Tensor, delta: Incoming | None, weight: Tensor, bias: Tensor, eps: float, to: Form
    ) -> Rows:
        out = Rows(hidden) if to.dtype == hidden.dtype else _empty((len(hidden), hidden.shape[1]), to)
        parameters = (_address(delta.bias if delta else None), weight.data_ptr(), bias.data_ptr(), eps)
        self._calls["add_layer_norm"](
            *hidden.shape, hidden.data_ptr(), _incoming(delta), *parameters, *_outgoing(out, to)
        )
        return out

    def convert(self, x: Tensor, to: Form) -> Rows:
        out = _empty((len(x), x.shape[1]), to)
        self._calls["convert"](*x.shape, _incoming(Rows(x)), *_outgoing(out, to))
        return out

    def silu_product(self, x: Incoming, to: Form) -> Rows:
        rows, width = x.shape
        out = _empty((rows, width // 2), to)
        self._calls["silu_product"](rows, width // 2, _incoming(x), *_outgoing(out, to))
        return out

    def activate(self, x: Incoming, function: int, to: Form) -> Rows:
        out = _empty(x.shape, to)
        self._calls["activate"](*x.shape, _incoming(x), _address(x.bias), function, *_outgoing(out, to))
        return out

    def rotate_heads(
        self,
        qkv: Incoming,
        heads: tuple[int, int, int],
        weights: tuple[Tensor, Tensor],
        eps: float,
        tables: tuple[Tensor, Tensor],
        positions: Tensor,
    ) -> Tensor:
        out = torch.empty(qkv.shape, dtype=qkv.dtype) if isinstance(qkv, Pending) else qkv.values
        addresses = (table.data_ptr() for table in (*tables, positions, out))
        parameters = (*(weight.data_ptr() for weight in weights), eps, *addresses, CODES[out.dtype])
        self._calls["rotate_heads"](len(positions), *heads, _incoming(qkv), *parameters)
        return out

    def knows_product(self, dtype: torch.dtype, width_in: int) -> bool:
        """Is there a product of ours for rows of this dtype, and does it pay?

        AMX computes bfloat16 and bytes many times as fast, and oneDNN has it.
        """
        if dtype not in CODES or (width_in * dtype.itemsize) % WORD:
            return False
        return dtype == torch.float32 or (self.name == WITH_HALVES and not torch.cpu._is_amx_tile_supported())

    def pack(self, weight: Tensor) -> Tensor:
        """weight [out, in] as the words of `Panels`."""
        width_out, words = len(weight), weight[0].nbytes // WORD
        panels = torch.empty(-(-width_out // self._panel), words, self._panel, dtype=torch.int32)
        self._calls["pack"](width_out, words, weight.contiguous().data_ptr(), panels.data_ptr())
        return panels

    def multiply(self, pending: Pending) -> Tensor:
        out = torch.empty(pending.shape)
        self._calls["multiply"](len(out), _incoming(pending), out.data_ptr())
        return out

    def attention(self, q: Tensor, k: Tensor, v: Tensor, offsets: tuple[Tensor, Tensor], *, is_causal: bool) -> Tensor:
        rows, heads, width = q.shape
        out = _rows((rows, heads * width), q.dtype)
        self._calls["attention"](
            len(offsets[0]) - 1,
            heads,
            k.shape[1],
            width,
            *(q.data_ptr(), q.stride(0), k.data_ptr(), v.data_ptr(), k.stride(0), CODES[q.dtype]),
            *(offsets[0].data_ptr(), offsets[1].data_ptr(), is_causal, width**-0.5, out.data_ptr(), out.stride(0)),
        )
        return out.view(rows, heads, width)


def kernels_for(x: Tensor | Incoming, *dtypes: torch.dtype) -> Kernels | None:
    """The kernels, if they know this tensor's device and dtype, and the other dtypes of the op."""
    tensor = x.x if isinstance(x, Pending) else x.values if isinstance(x, Rows) else x
    is_known = tensor.device.type == "cpu" and all(dtype in CODES for dtype in (tensor.dtype, *dtypes))
    return load_kernels() if is_known else None


@cache
def load_kernels() -> Kernels | None:
    """The best build that this processor runs; None where there is none."""
    return next(runnable_kernels(), None)


def runnable_kernels() -> Iterator[Kernels]:
    """All builds that are there and that this processor runs, the best first."""
    threads = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    for name in _runnable():
        found = find_spec(f"inlay.ops._kernels_{name}")
        if found is not None and found.origin is not None and threads.exists():
            yield Kernels(name, ctypes.CDLL(found.origin), ctypes.CDLL(str(threads)))


def _runnable() -> list[str]:
    capability = torch.backends.cpu.get_cpu_capability()
    builds = []
    if capability == "AVX512":
        builds = [WITH_HALVES, "avx512"] if torch.cpu._is_avx512_bf16_supported() else ["avx512"]
    return [*builds, "avx2"] if capability in ("AVX2", "AVX512") else []


def _empty(shape: tuple[int, int], to: Form) -> Rows:
    scales = torch.empty(shape[0], dtype=torch.float32) if to.is_bytes else None
    return Rows(_rows(shape, to.dtype), scales, zero_point=to.zero_point)


def _rows(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Uninitialised rows, a line further apart where they would share one set of the cache."""
    rows, width = shape
    is_shared = width * dtype.itemsize % CACHE_WAY == 0
    return torch.empty(rows, width + is_shared * LINE // dtype.itemsize, dtype=dtype)[:, :width]


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _incoming(x: Incoming | None) -> _Input | None:
    if x is None:
        return None
    if isinstance(x, Rows):
        row = (x.values.data_ptr(), x.values.stride(0), _address(x.scales), x.shape[1])
        return _Input(*row, x.shape[1], None, None, None, CODES[x.values.dtype])
    panels = x.panels
    weight = (panels.words.data_ptr(), _address(panels.starts), _address(panels.channels))
    width = x.x.shape[1]
    return _Input(
        x.x.data_ptr(), x.x.stride(0), _address(x.scales), width, panels.width_out, *weight, CODES[panels.dtype]
    )


def _outgoing(out: Rows, to: Form) -> tuple[int | None, ...]:
    return (
        out.values.data_ptr(),
        out.values.stride(0),
        _address(out.scales),
        _address(to.multipliers),
        to.zero_point,
        CODES[to.dtype],
    )
