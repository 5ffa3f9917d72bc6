"""The one product of a head that has a file of its own: floats of the right shapes, and never code."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch

from inlay.errors import ModelError
from inlay.ops.linear import Weights


def read_linear(file: Path, shape: tuple[int, int], device: torch.device) -> Weights:
    """The weights of a state dict of `weight` [out, in] and `bias`, in float32; `ModelError` for any other file."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, OSError, ValueError, EOFError, LookupError, AttributeError) as error:
        raise ModelError(f"{file} cannot be read as plain tensors ({type(error).__name__}): fetch it again") from error
    return linear_of(found, file, shape, device)


def linear_of(
    found: object, file: Path, shape: tuple[int, int], device: torch.device, prefix: str = "", *, has_bias: bool = True
) -> Weights:
    """The same of what a file was found to hold, under names with a prefix."""
    weight, bias = f"{prefix}weight", f"{prefix}bias"
    wanted = {weight: shape, **({bias: shape[:1]} if has_bias else {})}
    if not isinstance(found, dict) or {name: _shape(value) for name, value in found.items()} != wanted:
        raise ModelError(f"{file} does not hold floats of the shapes {wanted}: fetch it again")
    # Copied: a file that is mapped is let go of.
    floats = {name: tensor.float().to(device, copy=True) for name, tensor in found.items()}
    return Weights((floats[weight],), (floats[bias],) if has_bias else ())


def _shape(value: object) -> tuple[int, ...] | None:
    """Of a tensor of floats."""
    return tuple(value.shape) if isinstance(value, torch.Tensor) and value.is_floating_point() else None
