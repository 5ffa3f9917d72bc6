"""A record: an entry as bytes that prove themselves, for tiers that keep them outside this process.

    72 bytes of head: key (32) · expires (8) · num_tokens (4) · flags (4) · kind (16) · length (4) · crc32 (4)
    length bytes of payload, and in a file zeros up to the room that a slot has

The checksum covers the head before it and the payload, so a torn tail or a flipped bit is no record. Against somebody
who writes records of his own only a `Signer` helps. Knows nothing of where records lie, nor of what payloads mean.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import zlib
from typing import NamedTuple

from inlay.types import Entry

HEAD = struct.Struct("<32sdII16sII")
_CHECKED_HEAD = struct.Struct("<32sdII16sI")  # the part that the checksum covers
_CHECKED = _CHECKED_HEAD.size
KEY_BYTES, KIND_BYTES = 32, 16
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
    """An entry with its key; `expires` is in seconds since 1970."""

    key: bytes
    expires: float
    entry: Entry


def room_of(num_bytes: int) -> int:
    """The room that a payload of so many bytes gets where slots have one size: at most an eighth more.

    Few sizes for many lengths; the usual vectors (multiples of 64 components) fill theirs.
    """
    step = max(1 << max(num_bytes.bit_length() - 4, 0), 4)
    return -(-max(num_bytes, 1) // step) * step


def encode_record(record: Record) -> bytes:
    """The bytes of a record; ValueError for a kind whose name is too long."""
    entry = record.entry
    kind = entry.kind.encode()
    if len(kind) > KIND_BYTES:
        raise ValueError(f"the kind of output {entry.kind!r} has a name of over {KIND_BYTES} bytes")
    flags = TRUNCATED if entry.is_truncated else 0
    fields = (record.key, record.expires, entry.num_tokens, flags, kind, len(entry.payload))
    crc = zlib.crc32(entry.payload, zlib.crc32(_CHECKED_HEAD.pack(*fields)))
    return HEAD.pack(*fields, crc) + entry.payload


def decode_record(data: bytes) -> Record | None:
    """The record at the beginning of the bytes; None where there is not a whole one."""
    if len(data) < HEAD.size:
        return None
    key, expires, num_tokens, flags, kind, length, crc = HEAD.unpack_from(data)
    payload = data[HEAD.size : HEAD.size + length]
    if len(payload) < length or zlib.crc32(payload, zlib.crc32(memoryview(data)[:_CHECKED])) != crc:
        return None
    try:
        name = kind.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        return None
    return Record(key, expires, Entry(name, payload, num_tokens, bool(flags & TRUNCATED)))
