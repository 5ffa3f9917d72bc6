"""A record: an entry as bytes that prove themselves, for tiers that keep them outside this process.

    64 bytes of head: digest (32) · expires (8) · num_tokens (4) · flags (4) · crc32 (4) · zeros (12)
    width × 4 bytes of vector, little-endian float32

The checksum covers the head before it and the vector, so a torn tail or a flipped bit is no record. Against somebody
who writes records of his own only a `Signer` helps. Knows nothing of where records lie.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import zlib
from typing import NamedTuple

import numpy as np

from inlay.types import Entry

HEAD = struct.Struct("<32sdIII12x")
_CHECKED_HEAD = struct.Struct("<32sdII")  # the part that the checksum covers
_CHECKED = _CHECKED_HEAD.size
DIGEST_BYTES = 32
TRUNCATED = 1  # flag
NEVER = float("inf")


SIGNATURE_BYTES = 16


class Signer:
    """Puts a MAC (keyed BLAKE2b) behind records: only who has the secret can make one."""

    def __init__(self, secret: str) -> None:
        self._key = hashlib.sha256(secret.encode()).digest()

    def sign(self, record: bytes) -> bytes:
        """The record with its MAC."""
        return record + self._mac(record)

    def verified(self, data: bytes) -> bytes | None:
        """The record alone; None where the MAC is not of this secret."""
        record = data[:-SIGNATURE_BYTES]
        is_ours = len(data) > SIGNATURE_BYTES and hmac.compare_digest(self._mac(record), data[-SIGNATURE_BYTES:])
        return record if is_ours else None

    def _mac(self, record: bytes) -> bytes:
        return hashlib.blake2b(record, digest_size=SIGNATURE_BYTES, key=self._key).digest()


class Record(NamedTuple):
    """An entry with its digest; `expires` is in seconds since 1970."""

    digest: bytes
    expires: float
    entry: Entry


def stride_of(width: int) -> int:
    """Bytes of a record of so many components."""
    return HEAD.size + width * 4


def encode_record(record: Record) -> bytes:
    entry = record.entry
    vector = np.ascontiguousarray(entry.vector, dtype="<f4").data.cast("B")
    fields = (record.digest, record.expires, entry.num_tokens, TRUNCATED if entry.is_truncated else 0)
    crc = zlib.crc32(vector, zlib.crc32(_CHECKED_HEAD.pack(*fields)))
    return b"".join((HEAD.pack(*fields, crc), vector))


def decode_record(data: bytes) -> Record | None:
    """The record; None where the bytes are not a whole one."""
    if len(data) <= HEAD.size or len(data) % 4:
        return None
    digest, expires, num_tokens, flags, crc = HEAD.unpack_from(data)
    view = memoryview(data)
    if zlib.crc32(view[HEAD.size :], zlib.crc32(view[:_CHECKED])) != crc:
        return None
    vector = np.frombuffer(data, dtype="<f4", offset=HEAD.size)
    return Record(digest, expires, Entry(vector, num_tokens, bool(flags & TRUNCATED)))
