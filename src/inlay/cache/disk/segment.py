"""A segment: a file with so many slots of one size for records, filled by one process and read by many.

    header   64 bytes   magic · version · room
    slots               each a record (see `cache.record`), with room for so many bytes of payload

Its size is set when it is made (the file is sparse), so that bounds can be kept by sizes. Read with pread
and not through a map: a file that someone cuts short would kill a process that has it mapped. Knows nothing
of the index.
"""

from __future__ import annotations

import fcntl
import os
import struct
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

from inlay.cache.record import HEAD, KEY_BYTES, Record, decode_record, encode_record

MAGIC, VERSION = b"INLAYSEG", 2
HEADER = struct.Struct("<8sII48x")
MOST_ROOM = 1 << 28  # bytes; more is no header of ours


def stride_of(room: int) -> int:
    """Bytes of a slot."""
    return HEAD.size + room


class Segment:
    """One open file; `write` is for the process that made it."""

    def __init__(self, path: Path, room: int) -> None:
        self.path = path
        self.room = room
        self.stride = stride_of(room)
        self._file = path.open("r+b", buffering=0)

    @classmethod
    def create(cls, path: Path, room: int, num_slots: int) -> Segment:
        """A new segment with empty slots; FileExistsError if there is one of the name."""
        with path.open("xb") as file:
            file.write(HEADER.pack(MAGIC, VERSION, room))
            file.truncate(HEADER.size + num_slots * stride_of(room))
        return cls(path, room)

    @classmethod
    def open(cls, path: Path) -> Segment:
        """An existing segment; ValueError when it is not one."""
        with path.open("rb") as file:
            header = file.read(HEADER.size)
        if len(header) < HEADER.size:
            raise ValueError(f"{path} is too short to be a segment")
        magic, version, room = HEADER.unpack(header)
        if magic != MAGIC or version != VERSION or not 0 < room < MOST_ROOM:
            raise ValueError(f"{path} is not a segment of version {VERSION}")
        return cls(path, room)

    @property
    def num_slots(self) -> int:
        """Slots in the file, filled or not."""
        return (os.fstat(self._file.fileno()).st_size - HEADER.size) // self.stride

    def write(self, first_slot: int, records: list[Record]) -> None:
        """Fill slots. After an error (a full disk) what was not written whole does not read as a record."""
        data = memoryview(b"".join(encode_record(record).ljust(self.stride, b"\0") for record in records))
        offset = HEADER.size + first_slot * self.stride
        while data:
            written = os.pwrite(self._file.fileno(), data, offset)
            data, offset = data[written:], offset + written

    def read(self, slot: int) -> Record | None:
        """The record in a slot; None where there is none, or not a whole one."""
        data = os.pread(self._file.fileno(), self.stride, HEADER.size + slot * self.stride)
        return decode_record(data)

    def read_key(self, slot: int) -> bytes:
        """The key in a slot, unproved; zeros where nothing was written."""
        return os.pread(self._file.fileno(), KEY_BYTES, HEADER.size + slot * self.stride)

    def is_empty(self, slot: int) -> bool:
        """Has nothing ever been written to the slot?"""
        head = os.pread(self._file.fileno(), HEAD.size, HEADER.size + slot * self.stride)
        return not any(head)

    def first_empty(self) -> int:
        """The slot to go on from: slots are filled in order."""
        return bisect_left(range(self.num_slots), True, key=self.is_empty)

    def has_room(self) -> bool:
        """Is its last slot still empty?"""
        return self.num_slots > 0 and self.is_empty(self.num_slots - 1)

    def unlock(self) -> None:
        """Claim it no longer."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def try_lock(self) -> bool:
        """Claim the file for writing; the claim ends with this process, however it ends."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def read_all(self) -> Iterator[tuple[int, Record]]:
        """Every good record with its slot."""
        for slot in range(self.num_slots):
            record = self.read(slot)
            if record is not None:
                yield slot, record

    def exists(self) -> bool:
        """Is the file still in its directory, or has someone made room?"""
        return os.fstat(self._file.fileno()).st_nlink > 0

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
