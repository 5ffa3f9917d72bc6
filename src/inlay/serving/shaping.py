"""From canonical vectors to what a client asked for: cut, normalise, encode. Pure functions, no torch."""

from __future__ import annotations

import numpy as np
import pybase64

from inlay.types import FloatArray

SMALLEST_NORM = 1e-12  # as in torch.nn.functional.normalize: a zero vector stays zero


def shape_vectors(vectors: FloatArray, dimensions: int | None, *, normalize: bool) -> FloatArray:
    """Cut [n, width] to [n, dimensions] first, then bring each row to unit length."""
    cut = vectors if dimensions is None else vectors[:, :dimensions]
    if not normalize:
        return cut
    norms = np.sqrt(np.einsum("ij,ij->i", cut, cut))
    unit: FloatArray = cut / np.maximum(norms, SMALLEST_NORM)[:, None]
    return unit


def to_base64(vector: FloatArray) -> str:
    """Base64 of the components as little-endian float32."""
    return pybase64.b64encode_as_string(np.ascontiguousarray(vector, dtype="<f4").data)
