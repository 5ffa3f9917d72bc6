"""Which kernels compute an op: the processor's compiled ones, the GPU's, or none, and then the op's reference does.

In: what the op is given. Out: kernels that know its device and dtypes. Both kinds have the same methods; what they say
is said by the ops.
"""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec
from shutil import which
from typing import Protocol

import torch
from torch import Tensor

from inlay.ops import native
from inlay.ops.addresses import CODES
from inlay.ops.layout import Layout
from inlay.ops.rows import Form, Rows

AMPERE = (8, 0)
COMPILERS = ("gcc", "clang", "cc")  # one of which Triton builds its launchers with


class OpKernels(Protocol):
    """A kernel for each op of that name."""

    def add_rms_norm(self, hidden: Tensor, delta: Rows | None, weight: Tensor, eps: float, to: Form) -> Rows: ...

    def add_layer_norm(
        self,
        hidden: Tensor,
        delta: Rows | None,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        to: Form,
        *,
        keeps_sum: bool,
    ) -> Rows: ...

    def convert(self, x: Tensor, to: Form) -> Rows: ...

    def gated_product(self, x: Rows, function: int, to: Form, *, is_gate_first: bool) -> Rows: ...

    def activate(self, x: Rows, function: int, to: Form) -> Rows: ...

    def rotate_heads(
        self,
        qkv: Rows,
        heads: tuple[int, int, int],
        weights: tuple[Tensor, Tensor] | None,
        eps: float,
        tables: tuple[Tensor, Tensor],
        positions: Tensor,
    ) -> Tensor: ...

    def look_up(self, tables: tuple[tuple[Tensor, Tensor | None], ...], rows: int) -> Tensor: ...

    def mean_of_rows(self, hidden: Tensor, layout: Layout) -> Tensor: ...

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        queries: Layout,
        keys: Layout,
        *,
        is_causal: bool,
        window: int | None,
        distance_bias: Tensor | None,
    ) -> Tensor: ...


def kernels_for(x: Tensor | Rows, *dtypes: torch.dtype) -> OpKernels | None:
    """The kernels, if they know this tensor's device and dtype, and the other dtypes of the op."""
    tensor = x.values if isinstance(x, Rows) else x
    if tensor.is_cuda:
        return gpu_kernels(tensor.device)
    if not tensor.is_cpu or tensor.dtype not in CODES:
        return None
    for dtype in dtypes:
        if dtype not in CODES:
            return None
    return native.load_kernels()


@cache
def gpu_kernels(device: torch.device) -> OpKernels | None:
    """The GPU's kernels; None where the reference ops must do: see `why_no_gpu_kernels`."""
    if why_no_gpu_kernels(device) is not None:
        return None
    from inlay.ops.gpu.kernels import GpuKernels

    return GpuKernels()


def has_gpu_attention(device: torch.device, dtype: torch.dtype) -> bool:
    """Does Inlay's attention compute here? In float32 torch's does, which takes lengths from the host."""
    return device.type == "cuda" and dtype != torch.float32 and gpu_kernels(device) is not None


def why_no_gpu_kernels(device: torch.device) -> str | None:
    """What keeps a GPU from the kernels; None where they run."""
    if device.type != "cuda" or torch.version.cuda is None:
        return "the kernels are for NVIDIA's GPUs"
    if torch.cuda.get_device_capability(device) < AMPERE:
        return "the GPU is older than sm80"
    if find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    if not os.environ.get("CC") and not any(map(which, COMPILERS)):
        return "triton needs a C compiler, which is not installed: install gcc"
    return None
