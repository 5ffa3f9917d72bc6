"""What an error of a GPU means: torch raises one class for those that end the process' use of it and for others.

The numbers are those of `cudaError_t`.
"""

from __future__ import annotations

import torch

ALLOCATION = 2
CAPTURING = range(900, 909)  # what cannot be captured, and what a capture that failed leaves behind


def is_fatal(error: BaseException) -> bool:
    """Does the device run nothing more after this?"""
    return isinstance(error, torch.AcceleratorError) and _code_of(error) not in (ALLOCATION, *CAPTURING)


def is_out_of_memory(error: BaseException) -> bool:
    """Was there no memory, of the device or pinned?"""
    return isinstance(error, torch.AcceleratorError) and _code_of(error) == ALLOCATION


def _code_of(error: torch.AcceleratorError) -> int | None:
    code: int | None = getattr(error, "error_code", None)
    return code
