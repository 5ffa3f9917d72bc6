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
    except (UnpicklingError, RuntimeError, OSError, ValueError, EOFError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{file} cannot be read as plain tensors ({reason}): fetch it again") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()} if isinstance(found, dict) else found
    wanted = {"weight": shape, "bias": (shape[0],)}
    if shapes != wanted:
        raise ModelError(f"{file} has the tensors {shapes}, and the model asks for {wanted}")
    return Weights((found["weight"].float().to(device),), (found["bias"].float().to(device),))
