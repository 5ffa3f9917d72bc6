"""The one function that names a cached output: all that decides it, and nothing else.

In the key: its own version, the model's fingerprint, the kind of output and of content, the final text byte for byte
or the token ids. Only an output of an input that was cut has the truncation side and the limit in its key too: what
fitted is the same, however it was asked for. Not in it: dimensions, output format, normalisation, the user, the
batch. Fields are prefixed with their length, so that no two lists of fields can run together.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from inlay.types import Truncate

KEY_VERSION = b"3"
# At most a token for each byte after normalisation, which makes at most 11 of a byte (UAX 15, NFKC in UTF-8).
TOKENS_PER_BYTE, SPECIAL_TOKENS = 11, 16


class CacheKeys(NamedTuple):
    """Each SHA-256 (32 bytes)."""

    whole: bytes  # of the output of all the content
    cut: bytes | None  # of the output of the content cut; None where it is not to be cut, or fits for certain

    @property
    def of_work(self) -> bytes:
        """Of the computation: equal for contents that have the same answer, whatever it is."""
        return self.cut or self.whole


def cache_keys(fingerprint: str, kind: str, content: str | list[int], truncate: Truncate, max_tokens: int) -> CacheKeys:
    """The keys under which an output of an input may lie.

    UnicodeEncodeError for a text with lone surrogates, which no tokenizer takes.
    """
    if isinstance(content, str):
        form, data = b"text", content.encode()
    else:
        form, data = b"ids", np.array(content, dtype="<i8").tobytes()
    digest = hashlib.sha256(
        _prefixed(KEY_VERSION, fingerprint.encode(), kind.encode(), form) + len(data).to_bytes(8, "little")
    )
    digest.update(data)
    whole = digest.digest()
    most = len(content) if form == b"ids" else len(data) * TOKENS_PER_BYTE + SPECIAL_TOKENS
    if truncate is Truncate.NONE or most <= max_tokens:
        return CacheKeys(whole, None)
    digest.update(_prefixed(truncate.encode(), b"%d" % max_tokens))
    return CacheKeys(whole, digest.digest())


@lru_cache(maxsize=256)  # few models, sides and limits; the content comes between them
def _prefixed(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(8, "little") + field for field in fields)
