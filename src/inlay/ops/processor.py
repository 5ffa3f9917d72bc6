"""What this processor computes in, as far as kernels and dtypes are chosen by it.

In: the processor, and `INLAY_MAX_CPU_ISA`, which hides the instruction sets above the one that it names, so that what
runs on an older processor can be run, tested and compared on a newer one. Knows nothing of tensors.
"""

from __future__ import annotations

import os

import torch

from inlay.config import CPU_ISA_VARIABLE
from inlay.errors import ConfigError

AVX2, AVX512 = "avx2", "avx512"


def has_avx2() -> bool:
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def has_avx512() -> bool:
    return not _is_hidden(AVX512) and torch.backends.cpu.get_cpu_capability() == "AVX512"


def has_avx512_bf16() -> bool:
    return not _is_hidden("above") and torch.cpu._is_avx512_bf16_supported()


def has_vnni() -> bool:
    """Products of bytes that are summed up in 32 bits."""
    return not _is_hidden("above") and torch.cpu._is_vnni_supported()


def has_amx() -> bool:
    return not _is_hidden("above") and torch.cpu._is_amx_tile_supported()


def _is_hidden(instructions: str) -> bool:
    """Does the variable hide AVX-512, or what is above it (bfloat16, VNNI, AMX)?"""
    most = os.environ.get(CPU_ISA_VARIABLE, "").lower()
    if most not in ("", AVX2, AVX512):
        raise ConfigError(f"{CPU_ISA_VARIABLE}={most}: use {AVX2} or {AVX512}, or leave it out")
    return most == AVX2 or (most == AVX512 and instructions != AVX512)
