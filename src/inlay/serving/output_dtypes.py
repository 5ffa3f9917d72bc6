"""Vectors in the smaller types that clients ask for, each a pure function of the float vector that caches keep.

In: shaped vectors, float32. Out: rows of another dtype, or of packed bits. Nothing here depends on the other rows of a
request, or rows of different requests could not be compared. Pure functions, no torch.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from inlay.types import FloatArray

DEVIATIONS = 5.0  # of a unit vector's components that int8 spans; what lies beyond is clipped, as hardly any does
LARGEST, OFFSET = 127, 128


class OutputDtype(StrEnum):
    """What the numbers of a vector are sent as."""

    FLOAT = "float"
    FLOAT16 = "float16"
    INT8 = "int8"
    UINT8 = "uint8"
    BINARY = "binary"
    UBINARY = "ubinary"

    @property
    def is_of_unit_vectors(self) -> bool:
        """Does its one scale for all vectors suppose that they have unit length?"""
        return self in (OutputDtype.INT8, OutputDtype.UINT8)


def int8_scale(width: int) -> float:
    """127 · √width / 5: components of a unit vector have a standard deviation of about 1 / √width.

    One constant for all texts and components, so that dot products of the integers are those of the floats, scaled.
    """
    return float(LARGEST * np.sqrt(width) / DEVIATIONS)


def convert_rows(vectors: FloatArray, output_dtype: OutputDtype) -> npt.NDArray[Any]:
    """vectors [n, width] → the same as a dtype, little-endian; of bits [n, ⌈width / 8⌉].

    - int8: round(v · `int8_scale`) within −128 to 127; uint8: the same + 128.
    - ubinary: a bit is 1 where v > 0, the first component in the highest bit, zeros behind the last
      (`numpy.packbits`, as sentence-transformers' `quantize_embeddings` and Cohere's documentation have it).
    - binary: ubinary − 128, not the byte read as signed; undone by `numpy.unpackbits((b + 128).astype(uint8))`.
    """
    if output_dtype is OutputDtype.FLOAT:
        return vectors
    if output_dtype is OutputDtype.FLOAT16:
        return vectors.astype("<f2")
    if output_dtype.is_of_unit_vectors:
        whole: FloatArray = np.rint(vectors * int8_scale(vectors.shape[1])).clip(-OFFSET, LARGEST)
        return whole.astype(np.int8) if output_dtype is OutputDtype.INT8 else (whole + OFFSET).astype(np.uint8)
    bits: npt.NDArray[Any] = np.packbits(vectors > 0, axis=1)
    return bits if output_dtype is OutputDtype.UBINARY else (bits.astype(np.int16) - OFFSET).astype(np.int8)
