"""Keeps torch's operators off the threads of the kernels' own pool.

While a batch runs on that pool, torch's operators beside it run on the calling thread alone: threads of both would wait
for the same cores.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """torch's operators of this thread, and of no other, run on it alone."""
    openmp = _openmp()
    if openmp is None:
        yield
        return
    before = torch.get_num_threads()  # also what makes torch set this thread up, once
    openmp.omp_set_num_threads(1)
    try:
        yield
    finally:
        openmp.omp_set_num_threads(before)


@cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP runtime that torch itself uses, found among what its module depends on."""
    library = ctypes.CDLL(torch._C.__file__)
    return library if hasattr(library, "omp_set_num_threads") else None
