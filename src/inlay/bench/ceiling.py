"""What the device could do: the model's own matrix products and nothing else, through the vendor's library.

In: the sizes of a model's products and a number of rows. Out: tokens a second that they alone would allow.
On a CPU these are oneDNN's products with prepacked weights, in int8 with unsigned activations; on a GPU
torch's, without the host's part. Each size has one weight, so it may stay in the processor's cache: a ceiling is
never too low. What a processor only emulates has the ceiling of float32, in which it is computed.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import Self

import torch

from inlay.models.parts import Linear
from inlay.models.registry import forward_class
from inlay.ops.fp8 import Fp8Product, has_fp8
from inlay.ops.int8 import PackedInt8Product, QuantisedWeight, can_multiply_bytes
from inlay.ops.linear import PackedProduct, PlainProduct, Product, Weights, can_pack
from inlay.ops.processor import has_amx, has_avx512_bf16, has_vnni
from inlay.ops.rows import Form, Rows
from inlay.types import ModelSpec

Sizes = Mapping[tuple[int, int], int]  # (width in, width out) → how many products of a pass have it
REPEATS = 5
CAPTURED = 16  # products of a GPU in one graph
INT8, FP8, HALF, FULL = "int8", "fp8", "bfloat16", "float32"


def product_sizes(spec: ModelSpec) -> Sizes:
    """The products of one pass."""
    with torch.device("meta"):
        model = forward_class(spec.family)(spec.config, torch.bfloat16)
    linears = [module for module in model.modules() if isinstance(module, Linear)]
    return Counter((linear.weight.shape[1], linear.weight.shape[0]) for linear in linears)


class Ceiling:
    """A ceiling in a process of its own, so that its threads and memory are not the engine's.

    While two threads of one process have teams of OpenMP's, libgomp lets the teams sleep between products: that
    would make short inputs slower, here and in the engine.
    """

    def __init__(self, sizes: Sizes, dtype: str, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_answer, args=(theirs, dict(sizes), _computed_dtype(dtype, device), device), daemon=True
        )
        self._process.start()
        theirs.close()

    def tokens_per_second(self, rows: int) -> float:
        """What the products alone would allow, with so many rows at a time."""
        self._ours.send(rows)
        rate: float = self._ours.recv()
        return rate

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._ours.close()  # and the process ends
        self._process.join()


def _answer(questions: Connection, sizes: Sizes, dtype: str, device: str) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    products = Products(sizes, dtype, device)
    while True:
        try:
            rows = questions.recv()
        except (EOFError, KeyboardInterrupt):
            return
        questions.send(products.tokens_per_second(rows))


def _end_with_parent() -> None:
    """Nobody waits for a figure any more when whoever asked was killed, however long a product takes."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class Products:
    """The products of one dtype on one device, made once and timed for any number of rows."""

    def __init__(self, sizes: Sizes, dtype: str, device: str) -> None:
        self._sizes = sizes
        self._dtype = dtype
        self._device = torch.device(device)
        self._products = {size: self._make(*size) for size in sizes}

    @torch.inference_mode()
    def tokens_per_second(self, rows: int) -> float:
        """Rows divided by the time of all products."""
        seconds = sum(self._seconds(size, rows) * count for size, count in self._sizes.items())
        return rows / seconds

    def _seconds(self, size: tuple[int, int], rows: int) -> float:
        x = self._activations(rows, size[0])
        product = self._products[size]
        product(x)  # the kernel is made here
        if self._device.type == "cuda":
            return _captured_seconds(product, x)
        taken = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            product(x)
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    def _activations(self, rows: int, width: int) -> Rows:
        if self._dtype == INT8:
            return Rows(torch.randint(0, 255, (rows, width), dtype=torch.uint8))
        x = torch.randn(rows, width, device=self._device)
        if self._dtype == FP8:
            return Rows.of(x, Form(torch.float8_e4m3fn))
        return Rows(x.to(getattr(torch, self._dtype)))

    def _make(self, width_in: int, width_out: int) -> Product:
        if self._dtype == INT8:
            values = torch.randint(-127, 127, (width_out, width_in), dtype=torch.int8)
            return PackedInt8Product(QuantisedWeight(values, torch.rand(width_out)), None, torch.bfloat16)
        weight = torch.randn(width_out, width_in, device=self._device)
        if self._dtype == FP8:
            return Fp8Product(Weights((weight,)), torch.bfloat16)
        weight = weight.to(getattr(torch, self._dtype))
        return (PackedProduct if can_pack(weight) else PlainProduct)(weight, None)


def _captured_seconds(product: Product, x: Rows) -> float:
    """Of one product of a GPU, launched by a graph: launching small ones takes longer than they do."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CAPTURED):
            product(x)
    graph.replay()
    taken = []
    for _ in range(REPEATS):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        began.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        taken.append(float(began.elapsed_time(ended)) / 1000 / CAPTURED)
    return statistics.median(taken)


def computed_dtypes(device: str) -> tuple[str, ...]:
    """The dtypes that a device computes in, and so has a ceiling of its own for."""
    if device != "cpu":
        return (*((FP8,) if has_fp8(torch.device(device)) else ()), HALF, FULL)
    has_int8, has_half = has_vnni() and can_multiply_bytes(), has_avx512_bf16() or has_amx()
    return ((INT8,) if has_int8 else ()) + ((HALF,) if has_half else ()) + (FULL,)


def _computed_dtype(dtype: str, device: str) -> str:
    """What products of a dtype are computed in."""
    return FULL if device == "cpu" and dtype not in computed_dtypes(device) else dtype
