"""Compiles every kernel ahead of time, without a GPU: registers, shared memory and spills for sm_80 and sm_90.

    python benchmarks/gpu/registers.py

A kernel that spills keeps values in memory instead of registers, and is slower for it; the script then ends with 1.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from inlay.ops.gpu.kernels import FP8, GpuKernels
from inlay.ops.layout import KeptRanges, Layout
from inlay.ops.rows import Form, Rows

CAPABILITIES = (80, 90)
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32", torch.int64: "*i64", FP8: "*fp8e4nv"}
OPTIONS = ("num_warps", "num_stages")


@dataclass(frozen=True)
class Compiled:
    """What one kernel takes of a multiprocessor."""

    name: str
    capability: int
    warps: int
    registers: int
    stack: int  # bytes a thread keeps in memory: spills
    shared: int


def compile_for(kernel: JITFunction, capability: int, arguments: tuple[Any, ...], named: dict[str, Any]) -> Compiled:
    """The kernel as a launch with these arguments would have it."""
    options = {name: named.pop(name) for name in OPTIONS if name in named}
    given = dict(zip(kernel.arg_names, arguments, strict=False)) | named
    signature, constants, attributes = {}, {}, {}
    for place, name in enumerate(kernel.arg_names):
        value = given[name]
        if name.isupper():
            signature[name], constants[(place,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
            attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32" if isinstance(value, int) else "fp32"
            if isinstance(value, int) and value % 16 == 0:
                attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    registers, stack = resources_of(built.asm["cubin"])
    return Compiled(kernel.__name__, capability, options.get("num_warps", 4), registers, stack, built.metadata.shared)


def resources_of(cubin: bytes) -> tuple[int, int]:
    """Registers and stack of a thread, as the disassembler that Triton brings says."""
    tool = next(Path(triton.__file__).parent.rglob("cuobjdump"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = [re.search(rf"{what}:(\d+)", told) for what in ("REG", "STACK")]
    registers, stack = (int(one.group(1)) if one else 0 for one in found)
    return registers, stack


META = torch.device("meta")
KERNELS = GpuKernels()
SILU = 4  # its number in `ops.activation`
Launches = Iterator[tuple[str, Callable[[], object]]]


def rows(width: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(128, width, dtype=dtype, device=META)


def launches_of_rows(width: int, inner: int, to: Form) -> Launches:
    hidden, delta, weight = rows(width, torch.float32), Rows(rows(width)), rows(width, torch.float32)[0]
    yield f"{width} → {to.dtype}", lambda: KERNELS.add_rms_norm(hidden, delta, weight, 1e-6, to)
    yield f"{width} → {to.dtype}", lambda: KERNELS.add_layer_norm(hidden, delta, weight, weight, 1e-6, to)
    yield f"{inner} → {to.dtype}", lambda: KERNELS.gated_product(Rows(rows(2 * inner)), SILU, to, is_gate_first=True)
    yield f"{inner} gelu → {to.dtype}", lambda: KERNELS.activate(Rows(rows(inner)), 1, to)


def launches_of_tables(width: int, layout: Layout) -> Launches:
    ids = torch.empty(128, dtype=torch.int32, device=META)
    tables = ((rows(width), ids), (rows(width), ids), (rows(width), None))
    yield f"{width}", lambda: KERNELS.look_up(tables, 128)
    yield f"{width}", lambda: KERNELS.mean_of_rows(rows(width, torch.float32), layout)


def launches_of_heads(heads: int, kv_heads: int, width: int, layout: Layout) -> Launches:
    q, k = (torch.empty(128, n, width, dtype=torch.bfloat16, device=META) for n in (heads, kv_heads))
    kept = KeptRanges(k.flatten(1), k.flatten(1), layout.cu_seqlens, layout.cu_seqlens)
    last, behind = Layout.of_one_row_each(2, META), replace(layout, kept=kept)
    is_causal = width == 128
    name = f"{heads}/{kv_heads}×{width}"
    yield name, lambda: KERNELS.attention(q, k, k, layout, layout, is_causal=is_causal)
    yield f"{name} last rows", lambda: KERNELS.attention(q, k, k, last, layout, is_causal=False)
    yield f"{name} behind a prefix", lambda: KERNELS.attention(q, k, k, layout, behind, is_causal=is_causal)
    if is_causal:
        table, weight = torch.empty(1000, 64, device=META), torch.empty(128, device=META)
        qkv, positions = Rows(rows((heads + 2 * kv_heads) * width)), torch.empty(128, dtype=torch.int32, device=META)
        shape, weights, tables = (heads, kv_heads, width), (weight, weight), (table, table)
        yield name, lambda: KERNELS.rotate_heads(qkv, shape, weights, 1e-6, tables, positions)


def launches(capability: int) -> Launches:
    """Every kernel with the shapes that models have. The tensors are never read."""
    layout = Layout.of(np.array([0, 64, 128]), META)
    for width, inner in ((384, 1536), (1024, 3072), (2560, 9728), (4096, 12_288)):
        for dtype in (torch.bfloat16,) if capability < 89 else (torch.bfloat16, FP8):
            yield from launches_of_rows(width, inner, Form(dtype))
        yield from launches_of_tables(width, layout)
    for heads, kv_heads, width in ((12, 12, 32), (12, 12, 64), (16, 8, 128), (32, 8, 128)):
        yield from launches_of_heads(heads, kv_heads, width, layout)


def compile_all(capability: int, words: Collection[str] = ()) -> Iterator[tuple[str, Compiled]]:
    """Every kernel whose shape has all of the words, with what it is compiled for."""
    found: list[Compiled] = []

    def run(kernel: JITFunction, *arguments: object, grid: object, warmup: bool, **named: object) -> None:
        found.append(compile_for(kernel, capability, arguments, dict(named)))

    whole, JITFunction.run = JITFunction.run, run
    try:
        for case, launch in launches(capability):
            if not all(word in case for word in words):
                continue
            launch()
            yield case, found.pop()
    finally:
        JITFunction.run = whole


def main() -> int:
    """1 where a kernel spills."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only launches whose shape has all of these, such as 16/8×128")
    words, has_spilled = parser.parse_args().words, False
    print(f"{'kernel':16}{'for':36}{'sm':>4}{'warps':>7}{'registers':>11}{'spilled':>9}{'shared KiB':>12}")
    for capability in CAPABILITIES:
        for case, one in compile_all(capability, words):
            taken = f"{one.warps:>7}{one.registers:>11}{one.stack:>9}{one.shared / 1024:>12.0f}"
            print(f"{one.name:16}{case:36}{capability:>4}{taken}", flush=True)
            has_spilled |= one.stack > 0
    return int(has_spilled)


if __name__ == "__main__":
    sys.exit(main())
