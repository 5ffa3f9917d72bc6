"""The one place that names a cached output: all that decides it, and nothing else.

In the key: its own version, the model's fingerprint, the kind of output and of content, the final text or pair byte
for byte or the token ids. Only an output of an input that was cut has the truncation side and the limit in its key too:
what fitted is the same, however it was asked for. Not in it: dimensions, output format, normalisation, the user, the
batch. Fields are prefixed with their length, so that no two lists of fields can run together.
"""

from __future__ import annotations

import hashlib
from hashlib import sha256

import numpy as np
from msgspec import Struct

from inlay.types import Content, Pair, Truncate

KEY_VERSION = b"3"
# At most a token for each byte after normalisation, which makes at most 11 of a byte (UAX 15, NFKC in UTF-8).
TOKENS_PER_BYTE, SPECIAL_TOKENS = 11, 16


class CacheKeys(Struct, frozen=True, gc=False):
    """Each SHA-256 (32 bytes)."""

    whole: bytes  # of the output of all the content
    cut: bytes | None  # of the output of the content cut; None where it is not to be cut, or fits for certain

    @property
    def of_work(self) -> bytes:
        """Of the computation: equal for contents that have the same answer, whatever it is."""
        return self.cut or self.whole


class KeyMaker:
    """Names the outputs of one kind that a request asks a model for; what all its inputs share is put together once."""

    def __init__(self, fingerprint: str, kind: str, truncate: Truncate, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._is_cut = truncate is not Truncate.NONE
        fields = (KEY_VERSION, fingerprint.encode(), kind.encode())
        self._head_of_text, self._head_of_ids = _prefixed(*fields, b"text"), _prefixed(*fields, b"ids")
        self._head_of_pair = _prefixed(*fields, b"pair")
        self._first: str | None = None
        self._digest_of_first = sha256()
        self._tail_of_cut = _prefixed(truncate.encode(), b"%d" % max_tokens)

    def keys_of(self, content: Content) -> CacheKeys:
        """The keys under which an output of an input may lie.

        UnicodeEncodeError for a text with lone surrogates, which no tokenizer takes.
        """
        if isinstance(content, str):
            head, data = self._head_of_text, content.encode()
            most = len(data) * TOKENS_PER_BYTE + SPECIAL_TOKENS
        elif isinstance(content, Pair):
            return self._keys_of_pair(content)
        else:
            head, data = self._head_of_ids, np.array(content, dtype="<i8").tobytes()
            most = len(content)
        digest = sha256(head + len(data).to_bytes(8, "little"))
        digest.update(data)
        return self._keys(digest, may_be_cut=most > self._max_tokens)

    def _keys_of_pair(self, pair: Pair) -> CacheKeys:
        """The first part, which many pairs share, is hashed once for all that come one after the other."""
        if self._first is not pair.first:
            self._digest_of_first = sha256(self._head_of_pair + _prefixed(pair.first.encode()))
            self._first = pair.first
        digest = self._digest_of_first.copy()
        digest.update(_prefixed(pair.second.encode()))
        return self._keys(digest, may_be_cut=True)  # how many special tokens a template has is not known here

    def _keys(self, digest: hashlib._Hash, *, may_be_cut: bool) -> CacheKeys:
        whole = digest.digest()
        if not self._is_cut or not may_be_cut:
            return CacheKeys(whole, None)
        digest.update(self._tail_of_cut)
        return CacheKeys(whole, digest.digest())


def cache_keys(fingerprint: str, kind: str, content: Content, truncate: Truncate, max_tokens: int) -> CacheKeys:
    """The keys of one input; see `KeyMaker`."""
    return KeyMaker(fingerprint, kind, truncate, max_tokens).keys_of(content)


def _prefixed(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(8, "little") + field for field in fields)
