"""Keeps the memory that a batch frees for the next one, instead of giving it back to the kernel each time.

By default glibc returns large blocks as soon as they are free, and every layer of every batch then takes fresh pages,
which the kernel has to zero: on small models that is a good part of the time. The setting is the process's; it holds
back at most `KEPT_BYTES` for each thread that computes. Elsewhere than with glibc nothing is done.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BYTES = 256 << 20
LARGEST_BLOCK = 32 << 20  # the most that glibc lets a heap hand out; larger blocks are mapped one by one


def keep_freed_memory() -> bool:
    """True where it could be set."""
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)) and bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK))


def give_back_freed_memory() -> bool:
    """What loading has left over goes back to the kernel, once; True where there was anything."""
    trim = _glibc("malloc_trim")
    return trim is not None and bool(trim(0))


def _glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
