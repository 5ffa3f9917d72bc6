"""Cache entries of vectors."""

from __future__ import annotations

import numpy as np

from inlay.types import DENSE, Entry, FloatArray


def dense(vector: FloatArray, num_tokens: int = 1, is_truncated: bool = False) -> Entry:
    return Entry(DENSE, np.asarray(vector, dtype=np.float32).tobytes(), num_tokens, is_truncated)


def vector_in(entry: Entry) -> FloatArray:
    return np.frombuffer(entry.payload, dtype=np.float32)
