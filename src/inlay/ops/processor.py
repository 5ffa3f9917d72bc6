"""What this processor computes in, as far as kernels and dtypes are chosen by it.

In: the processor, as torch and a compiled look at it tell, and `INLAY_MAX_CPU_ISA`, which hides the builds of the
kernels above the one that it names, so that what runs on an older processor can be run, tested and compared on a newer
one. Knows nothing of tensors.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache
from importlib.util import find_spec

import torch

from inlay.config import CPU_ISA_VARIABLE
from inlay.errors import ConfigError

AVX2, AVX2_VNNI, AVX512, AVX512_VNNI, AVX512_BF16 = "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16"
NEON, NEON_I8MM, NEON_BF16 = "neon", "neon_i8mm", "neon_bf16"
X86, ARM = (AVX2, AVX2_VNNI, AVX512, AVX512_VNNI, AVX512_BF16), (NEON, NEON_I8MM, NEON_BF16)  # from old to new
AVX_VNNI, DOT_PRODUCTS, INT8_PRODUCTS, BF16_PRODUCTS = 1, 2, 4, 8  # bits of what the compiled look tells


def has_avx512() -> bool:
    return not _is_hidden(AVX512) and torch.backends.cpu.get_cpu_capability() == "AVX512"


def has_vnni() -> bool:
    """Products of bytes that are summed up in 32 bits, with AVX-512."""
    return not _is_hidden(AVX512_VNNI) and torch.cpu._is_vnni_supported()


def has_avx512_bf16() -> bool:
    return not _is_hidden(AVX512_BF16) and torch.cpu._is_avx512_bf16_supported()


def has_amx() -> bool:
    return not _most() and torch.cpu._is_amx_tile_supported()


def has_arm_bf16() -> bool:
    return not _is_hidden(NEON_BF16) and bool(_features() & BF16_PRODUCTS)


def runnable_builds() -> list[str]:
    """The builds of the kernels that this processor runs, the best first."""
    return [name for name in reversed(_names()) if not _is_hidden(name) and _runs(name)]


def _runs(build: str) -> bool:
    has_avx2 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    features = _features()
    runs = {
        AVX2: has_avx2,
        AVX2_VNNI: has_avx2 and bool(features & AVX_VNNI),
        AVX512: has_avx512(),
        AVX512_VNNI: has_avx512() and has_vnni(),
        AVX512_BF16: has_avx512() and has_vnni() and has_avx512_bf16(),
        NEON: bool(features & DOT_PRODUCTS),
        NEON_I8MM: bool(features & DOT_PRODUCTS and features & INT8_PRODUCTS),
        NEON_BF16: bool(features & DOT_PRODUCTS and features & INT8_PRODUCTS and features & BF16_PRODUCTS),
    }
    return runs[build]


def _names() -> tuple[str, ...]:
    """Of this architecture's builds."""
    return ARM if platform.machine().lower() in ("aarch64", "arm64") else X86


@cache
def _features() -> int:
    found = find_spec("inlay.ops._processor")
    if found is None or found.origin is None:
        return 0
    look = ctypes.CDLL(found.origin).inlay_features
    look.restype = ctypes.c_int64
    features: int = look()
    return features


def _most() -> str:
    """The newest build that the variable leaves; empty without it."""
    most = os.environ.get(CPU_ISA_VARIABLE, "").lower()
    if most and most not in _names():
        raise ConfigError(
            f"{CPU_ISA_VARIABLE}={most}: use {', '.join(_names()[:-1])} or {_names()[-1]}, or leave it out"
        )
    return most


def _is_hidden(build: str) -> bool:
    most = _most()
    return bool(most) and (build not in _names() or _names().index(build) > _names().index(most))
