"""A record: an entry as bytes that prove themselves, for tiers that keep them outside this process.

    64 bytes of head: digest (32) · expires (8) · num_tokens (4) · flags (4) · crc32 (4) · zeros (12)
    width × 4 bytes of vector, little-endian float32

The checksum covers the head before it and the vector, so a torn tail or a flipped bit is no record. Knows
nothing of where records lie.
"""

from __future__ import annotations

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
