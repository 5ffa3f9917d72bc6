"""Reads the one product of a head that has a file of its own: a state dict of `weight` and `bias`, and never code."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch

from inlay.errors import ModelError
from inlay.ops.linear import Weights


def read_linear(file: Path, shape: tuple[int, int], device: torch.device) -> Weights:
    """The weights in float32, [out, in] of the shape; `ModelError` for a file that holds anything else."""
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, OSError, ValueError, EOFError, LookupError, AttributeError) as error:
        raise ModelError(f"{file} cannot be read as plain tensors ({type(error).__name__}): fetch it again") from error
    wanted = {"weight": shape, "bias": (shape[0],)}
    if not isinstance(found, dict) or {name: _shape(value) for name, value in found.items()} != wanted:
        raise ModelError(f"{file} does not hold floats of the shapes {wanted}: fetch it again")
    return Weights((found["weight"].float().to(device),), (found["bias"].float().to(device),))


def _shape(value: object) -> tuple[int, ...] | None:
    """Of a tensor of floats."""
    return tuple(value.shape) if isinstance(value, torch.Tensor) and value.is_floating_point() else None
