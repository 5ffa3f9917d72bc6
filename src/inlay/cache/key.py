"""The one function that names a cached vector: all that decides it, and nothing else.

In the key: its own version, the model's fingerprint, the kind of content, the final text byte for byte or
the token ids, the truncation side and the limit. Not in it: dimensions, output format, normalisation, the
user, the batch. Fields are prefixed with their length, so that no two lists of fields can run together.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

from inlay.types import Truncate

KEY_VERSION = b"1"


def cache_key(fingerprint: str, content: str | list[int], truncate: Truncate, max_tokens: int) -> bytes:
    """SHA-256 (32 bytes). UnicodeEncodeError for a text with lone surrogates, which no tokenizer takes."""
    if isinstance(content, str):
        kind, data = b"text", content.encode()
    else:
        kind, data = b"ids", np.array(content, dtype="<i8").tobytes()
    around = _prefixed(KEY_VERSION, fingerprint.encode(), truncate.encode(), b"%d" % max_tokens, kind)
    return hashlib.sha256(around + len(data).to_bytes(8, "little") + data).digest()


@lru_cache(maxsize=256)  # few models, sides and limits; the content comes after them
def _prefixed(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(8, "little") + field for field in fields)
