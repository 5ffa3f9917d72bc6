"""The compiled kernels: finds the build for this processor and calls it on tensors.

In: CPU tensors whose rows are contiguous. Out: tensors; each method is the kernel of the op of that name, and says
nothing that the op does not. The library knows no torch: it gets addresses, and has threads of its own. Only where
torch does the products (AMX) it runs on torch's, by `torch_parallel_for` of its C interface. Not built, no AVX2: none.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from inlay.ops.addresses import (
    ADDRESS,
    CODES,
    FLAG,
    INTEGER,
    REAL,
    ROWS_IN,
    ROWS_OUT,
    WORD,
    Table,
    address,
    empty_rows,
    incoming,
    outgoing,
    spaced_rows,
)
from inlay.ops.layout import Layout
from inlay.ops.processor import has_amx, runnable_builds
from inlay.ops.rows import Form, Rows
from inlay.ops.threads import torch_on_one_thread
from inlay.thread_count import choose_threads

OUT_OF_MEMORY, OUT_OF_RANGE = 1, 3  # of a kernel's statuses; 0 is success
SIGNATURES = {
    "add_rms_norm": (INTEGER, INTEGER, ADDRESS, *ROWS_IN, ADDRESS, ADDRESS, REAL, *ROWS_OUT),
    "add_layer_norm": (INTEGER, INTEGER, ADDRESS, *ROWS_IN, *(ADDRESS,) * 3, REAL, FLAG, *ROWS_OUT),
    "convert": (INTEGER, INTEGER, *ROWS_IN, *ROWS_OUT),
    "gated_product": (INTEGER, INTEGER, *ROWS_IN, FLAG, FLAG, *ROWS_OUT),
    "activate": (INTEGER, INTEGER, *ROWS_IN, ADDRESS, FLAG, *ROWS_OUT),
    "rotate_heads": (*(INTEGER,) * 4, *ROWS_IN, *(ADDRESS,) * 3, REAL, *(ADDRESS,) * 4, FLAG),
    "multiply": (INTEGER, *ROWS_IN, ADDRESS),
    "pack": (INTEGER, INTEGER, ADDRESS, ADDRESS),
    "look_up": (*(INTEGER,) * 3, ctypes.POINTER(Table), FLAG, ADDRESS),
    "mean": (INTEGER, INTEGER, *(ADDRESS,) * 3),
    "add_low_rank": (
        *(INTEGER, *ROWS_IN, ADDRESS, ADDRESS, INTEGER, INTEGER, FLAG),
        *(ADDRESS, INTEGER, INTEGER, *(ADDRESS,) * 3, FLAG),
    ),
    "release_memory": (),
    "run_program": (ADDRESS,),
    "attention": (
        *(INTEGER,) * 4,
        *(ADDRESS, INTEGER, ADDRESS, ADDRESS, INTEGER, FLAG),
        *(ADDRESS, ADDRESS, FLAG, INTEGER, REAL, ADDRESS, INTEGER, ADDRESS, INTEGER),
    ),
}


class Kernels:
    """One build of the kernels."""

    def __init__(self, name: str, library: ctypes.CDLL, *, on_torch_threads: bool = False) -> None:
        self.name = name
        self.on_torch_threads = on_torch_threads
        library.inlay_use_threads.argtypes = (ADDRESS, INTEGER)
        if on_torch_threads:
            parallel_for = ctypes.CDLL(torch._C.__file__).torch_parallel_for
            library.inlay_use_threads(ctypes.cast(parallel_for, ADDRESS), torch.get_num_threads())
        else:
            library.inlay_use_threads(None, choose_threads().count)
        self._panel = library.inlay_panel()
        self._multiplies_halves = bool(library.inlay_multiplies_halves())
        self.byte_offset: int = library.inlay_byte_offset()  # what products take off each byte of a row
        self._begin_program, self._end_program = library.inlay_begin_program, library.inlay_end_program
        self._begin_program.restype, self._end_program.restype = ADDRESS, None
        self._delete_program = library.inlay_delete_program
        self._delete_program.argtypes, self._delete_program.restype = (ADDRESS,), None
        self._functions = {}
        for function, signature in SIGNATURES.items():
            call = getattr(library, f"inlay_{function}")
            call.argtypes, call.restype = signature, FLAG
            self._functions[function] = call

    def _call(self, function: str, *arguments: object) -> None:
        """`MemoryError` or `RuntimeError` where a kernel did not do all of its rows: what it wrote is no result."""
        status = self._functions[function](*arguments)
        if status == OUT_OF_MEMORY:
            raise MemoryError(f"the kernel {function} needs more memory than there is")
        if status == OUT_OF_RANGE:
            raise IndexError(f"the kernel {function} was given the number of a row that is not there")
        if status:
            raise RuntimeError(f"the kernel {function} failed")

    def add_rms_norm(self, hidden: Tensor, delta: Rows | None, weight: Tensor, eps: float, to: Form) -> Rows:
        out = empty_rows((len(hidden), hidden.shape[1]), to)
        self._call(
            "add_rms_norm",
            *hidden.shape,
            hidden.data_ptr(),
            incoming(delta),
            address(delta.bias if delta else None),
            weight.data_ptr(),
            eps,
            *outgoing(out, to),
        )
        return out

    def add_layer_norm(
        self,
        hidden: Tensor,
        delta: Rows | None,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        to: Form,
        *,
        keeps_sum: bool = False,
    ) -> Rows:
        is_in_place = to.dtype == hidden.dtype and not keeps_sum
        out = Rows(hidden) if is_in_place else empty_rows((len(hidden), hidden.shape[1]), to)
        parameters = (address(delta.bias if delta else None), weight.data_ptr(), bias.data_ptr(), eps, keeps_sum)
        self._call("add_layer_norm", *hidden.shape, hidden.data_ptr(), incoming(delta), *parameters, *outgoing(out, to))
        return out

    def convert(self, x: Tensor, to: Form) -> Rows:
        out = empty_rows((len(x), x.shape[1]), to)
        self._call("convert", *x.shape, incoming(Rows(x)), *outgoing(out, to))
        return out

    def gated_product(self, x: Rows, function: int, to: Form, *, is_gate_first: bool) -> Rows:
        rows, width = x.shape
        out = empty_rows((rows, width // 2), to)
        self._call("gated_product", rows, width // 2, incoming(x), function, is_gate_first, *outgoing(out, to))
        return out

    def activate(self, x: Rows, function: int, to: Form) -> Rows:
        out = empty_rows(x.shape, to)
        self._call("activate", *x.shape, incoming(x), address(x.bias), function, *outgoing(out, to))
        return out

    def rotate_heads(
        self,
        qkv: Rows,
        heads: tuple[int, int, int],
        weights: tuple[Tensor, Tensor] | None,
        eps: float,
        tables: tuple[Tensor, Tensor],
        positions: Tensor,
    ) -> Tensor:
        is_in_place = qkv.panels is None and qkv.dtype == qkv.values.dtype
        out = qkv.values if is_in_place else torch.empty(qkv.shape, dtype=qkv.dtype)
        before = map(address, (qkv.bias, *(weights or (None, None))))
        parameters = (*before, eps, *map(address, (*tables, positions, out)), CODES[out.dtype])
        self._call("rotate_heads", len(positions), *heads, incoming(qkv), *parameters)
        return out

    def look_up(self, tables: tuple[tuple[Tensor, Tensor | None], ...], rows: int) -> Tensor:
        first, _ = tables[0]
        given = (Table * len(tables))(*(Table(table.data_ptr(), address(ids), len(table)) for table, ids in tables))
        out = torch.empty(rows, first.shape[1])
        self._call("look_up", *out.shape, len(tables), given, CODES[first.dtype], out.data_ptr())
        return out

    def mean_of_rows(self, hidden: Tensor, layout: Layout) -> Tensor:
        offsets = layout.host
        out = torch.empty(len(offsets) - 1, hidden.shape[1])
        self._call("mean", *out.shape, hidden.data_ptr(), offsets.data_ptr(), out.data_ptr())
        return out

    def add_low_rank(
        self,
        y: Tensor,
        scales: Tensor | None,
        x: Tensor,
        factors: tuple[Tensor, Tensor],
        columns: Tensor | None,
        shift: Tensor | None,
    ) -> None:
        a, b = factors
        self._call(
            "add_low_rank",
            len(x),
            incoming(Rows(x)),
            *(a.data_ptr(), b.data_ptr(), len(b), a.shape[1], CODES[a.dtype]),
            *(y.data_ptr(), y.stride(0), y.shape[1], address(scales), address(columns), address(shift), CODES[y.dtype]),
        )

    def begin_program(self) -> int:
        """From here on the calls of this thread are kept, until `end_program`; the program's number."""
        program: int | None = self._begin_program()
        if program is None:
            raise MemoryError("a program of kernels needs more memory than there is")
        return program

    def end_program(self) -> None:
        self._end_program()

    def run_program(self, program: int) -> None:
        """The calls of a program, with the addresses that they had."""
        self._call("run_program", program)

    def delete_program(self, program: int) -> None:
        self._delete_program(program)

    def release_memory(self) -> None:
        """What the threads keep from call to call goes; a long input leaves much."""
        self._call("release_memory")

    def knows_product(self, dtype: torch.dtype, width_in: int) -> bool:
        """Is there a product of ours for rows of this dtype, and does it pay?

        AMX computes bfloat16 and bytes many times as fast, and oneDNN has it.
        """
        if dtype not in CODES or (width_in * dtype.itemsize) % WORD:
            return False
        return dtype == torch.float32 or not self.on_torch_threads

    def row_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """What rows of a product in a dtype are in; without products of bfloat16 its rows are floats."""
        return dtype if self._multiplies_halves else torch.float32

    def pack(self, weight: Tensor) -> Tensor:
        """weight [out, in] as the words of `Panels`."""
        weight = weight.contiguous()
        width_out, words = len(weight), weight[0].nbytes // WORD
        panels = torch.empty(-(-width_out // self._panel), words, self._panel, dtype=torch.int32)
        self._call("pack", width_out, words, weight.data_ptr(), panels.data_ptr())
        return panels

    def multiply(self, x: Rows) -> Tensor:
        out = torch.empty(x.shape)
        self._call("multiply", len(out), incoming(x), out.data_ptr())
        return out

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        queries: Layout,
        keys: Layout,
        *,
        is_causal: bool,
        window: int | None = None,
        distance_bias: Tensor | None = None,
    ) -> Tensor:
        rows, heads, width = q.shape
        out = spaced_rows((rows, heads * width), q.dtype)
        middle = 0 if distance_bias is None else distance_bias.shape[1] // 2
        self._call(
            "attention",
            len(queries.host) - 1,
            heads,
            k.shape[1],
            width,
            *(q.data_ptr(), q.stride(0), k.data_ptr(), v.data_ptr(), k.stride(0), CODES[q.dtype]),
            *(queries.host.data_ptr(), keys.host.data_ptr(), is_causal, -1 if window is None else window, width**-0.5),
            *(address(distance_bias), middle, out.data_ptr(), out.stride(0)),
        )
        return out.view(rows, heads, width)


@cache
def load_kernels() -> Kernels | None:
    """The best build that this processor runs; None where there is none."""
    return next(runnable_kernels(), None)


def torch_beside_kernels() -> AbstractContextManager[None]:
    """torch's operators run on the calling thread, where the kernels beside them have threads of their own."""
    kernels = load_kernels()
    return nullcontext() if kernels is None or kernels.on_torch_threads else torch_on_one_thread()


def takes_float_rows(dtype: torch.dtype) -> bool:
    """Do the kernels' products of a dtype take rows of float32? Then they round less than on other processors."""
    kernels = load_kernels()
    return kernels is not None and kernels.knows_product(dtype, WORD) and kernels.row_dtype(dtype) != dtype


def kernels_name() -> str:
    """The build that CPU tensors run on; `torch` where there is none."""
    kernels = load_kernels()
    return "torch" if kernels is None else kernels.name


def runnable_kernels() -> Iterator[Kernels]:
    """All builds that are there and that this processor runs, the best first."""
    for name in runnable_builds():
        found = find_spec(f"inlay.ops._kernels_{name}")
        if found is not None and found.origin is not None:
            yield Kernels(name, ctypes.CDLL(found.origin), on_torch_threads=has_amx())
