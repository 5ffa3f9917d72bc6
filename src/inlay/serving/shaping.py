"""From canonical outputs to what a client asked for: cut, normalise, encode, order. Pure functions, no torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pybase64

from inlay.types import FloatArray

SMALLEST_NORM = 1e-12  # as in torch.nn.functional.normalize: a zero vector stays zero


LAYER_NORM_EPS = 1e-5  # of torch.nn.functional.layer_norm, which Nomic's card calls with no other


def shape_vectors(
    vectors: FloatArray, dimensions: int | None, *, normalize: bool, has_norm_before_cut: bool = False
) -> FloatArray:
    """Cut [n, width] to [n, dimensions] first, then bring each row to unit length.

    With a norm before a cut, rows are brought to mean 0 and variance 1 before (huggingface.co/nomic-ai/
    nomic-embed-text-v1.5: layer_norm, then the cut).
    """
    if has_norm_before_cut and dimensions is not None and dimensions < vectors.shape[1]:
        centred = vectors - vectors.mean(axis=1, keepdims=True)
        vectors = centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + LAYER_NORM_EPS)
    cut = vectors if dimensions is None else vectors[:, :dimensions]
    if not normalize:
        return cut
    norms = np.vecdot(cut, cut)
    np.sqrt(norms, out=norms)
    np.maximum(norms, SMALLEST_NORM, out=norms)
    unit: FloatArray = cut / norms[:, None]
    return unit


def shape_token_vectors(flat: FloatArray, width: int, dimensions: int | None, *, normalize: bool) -> FloatArray:
    """The rows of one input, [tokens · width], as [tokens, dimensions]: cut first, then each of unit length."""
    return shape_vectors(flat.reshape(-1, width), dimensions, normalize=normalize)


def best_first(logits: list[float]) -> list[int]:
    """Places by their logits, the highest first; equal ones in their order."""
    return sorted(range(len(logits)), key=lambda index: -logits[index])


def sigmoid(logit: float) -> float:
    """1 / (1 + e^−x), without an overflow for any x."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    power = math.exp(logit)
    return power / (1 + power)


def to_base64_many(rows: npt.NDArray[Any]) -> list[bytes]:
    """Base64 of each row's numbers, little-endian."""
    if not rows.size:
        return [b""] * len(rows)
    raw = memoryview(np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<")).data).cast("B")
    row = len(raw) // len(rows)
    return [pybase64.b64encode(raw[start : start + row]) for start in range(0, len(raw), row)]
