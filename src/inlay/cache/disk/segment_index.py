"""Where the disk tier's entries lie: an LMDB map from key to segment and slot, shared by processes.

In: keys with their places. Out: places, which may be out of date: whoever reads there checks what it finds.
Also counts the segments, so that a number is never used twice. LMDB reads through a map, so a file that was cut short
would kill the process: its size is looked at before each use, and what is damaged is a miss and told by `is_damaged`.
Knows nothing of what lies in a place.
"""

from __future__ import annotations

import os
import shutil
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import lmdb

from inlay.cache.disk.open_marks import OpenMarks

_PLACE = struct.Struct("<II")  # segment, slot
_COUNTER = b"last segment"
SHORT_KEY_BYTES = 16  # of the key; the whole key is in the record
SMALLEST_FILE = 8192  # bytes that each of LMDB's files has at least
SMALLEST_MAP = 64 << 20  # bytes of address space
DATA, LOCKS = "data.mdb", "lock.mdb"
DAMAGE = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.BadTxnError,
    struct.error,
)


class Place(NamedTuple):
    """A slot of a segment."""

    segment: int
    slot: int


class _Environment:
    """LMDB's, which a process may open only once for a directory, with the number of those who use it."""

    def __init__(self, path: Path, map_size: int) -> None:
        self.path = path
        self.num_users = 0
        self.is_damaged = False
        self._inode = -1
        self._sizes: dict[str, int] = {}  # of the mapped files, which never shrink
        self._map_size = map_size
        self._opening = Lock()
        self.marks = OpenMarks(path.parent / "open")
        try:
            self.open()
        except BaseException:
            self.marks.close()
            raise

    def open(self) -> None:
        """Open the file that lies there now. One that was replaced goes when the last transaction on it has ended."""
        with self._opening:
            if self._is_replaced():
                self.map = lmdb.open(
                    str(self.path), map_size=self._map_size, sync=False, metasync=False, readahead=False
                )
                self._inode = (self.path / DATA).stat().st_ino
                self._sizes = dict.fromkeys((DATA, LOCKS), 0)
                self.is_damaged = False

    def _is_replaced(self) -> bool:
        try:
            return (self.path / DATA).stat().st_ino != self._inode
        except FileNotFoundError:
            return True

    def checked(self) -> lmdb.Environment:
        """The map, if reading it cannot kill the process; `lmdb.CorruptedError` otherwise."""
        try:
            if (self.path / DATA).stat().st_ino != self._inode:  # another process has rebuilt it
                self.open()
            self._seen_size(LOCKS)
            size = self._seen_size(DATA)
            needed = (self.map.info()["last_pgno"] + 1) * self.map.stat()["psize"]
            if size < needed:  # also where somebody wrote to it since its size was looked at
                size = self._seen_size(DATA)
        except FileNotFoundError:
            raise lmdb.CorruptedError("its file has gone") from None
        if size < needed:
            raise lmdb.CorruptedError("its file was cut short before it was opened")
        return self.map

    def _seen_size(self, name: str) -> int:
        """Bytes of a file, which are no fewer than were seen before this was asked: another thread may see it grow."""
        known = max(self._sizes[name], SMALLEST_FILE)
        size = (self.path / name).stat().st_size
        if size < known:
            raise lmdb.CorruptedError("its file was cut short")
        self._sizes[name] = max(size, known)
        return size

    def close(self) -> None:
        if not self.is_damaged:
            self.map.sync(True)
        self.map.close()
        self.marks.close()


# A fact of the process, as LMDB's rule is: by directory, with the lock that guards it.
_ENVIRONMENTS: dict[tuple[int, Path], _Environment] = {}  # with the process: a fork may not use its parent's
_LOCK = Lock()


class SegmentIndex:
    """The index in a directory. Its writes are serialised over all processes."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path.resolve()
        self._owner = (os.getpid(), self._path)
        with _LOCK:
            if self._owner not in _ENVIRONMENTS:
                _ENVIRONMENTS[self._owner] = _Environment(self._path, max(SMALLEST_MAP, max_bytes))
            self._shared = _ENVIRONMENTS[self._owner]
            self._shared.num_users += 1

    @property
    def is_lost(self) -> bool:
        """Was the file cut short, or did the machine go down while somebody wrote? Then it is to be rebuilt."""
        try:
            self._shared.checked()
        except DAMAGE:
            return True
        return self._shared.marks.was_cut_off

    @property
    def is_damaged(self) -> bool:
        """Was something found that is no index? It is to be rebuilt."""
        return self._shared.is_damaged

    @property
    def num_entries(self) -> int:
        with self._shared.checked().begin() as transaction:
            has_counter = transaction.get(_COUNTER) is not None
            return int(transaction.stat()["entries"]) - has_counter

    def find_many(self, keys: list[bytes]) -> list[Place | None]:
        """The place of each key; None where there is none, or where the index is damaged."""
        found: list[Place | None] = []
        try:
            with self._shared.checked().begin() as transaction:
                for key in keys:
                    found.append(self._find(transaction, key))
        except (lmdb.Error, *DAMAGE):
            self._shared.is_damaged = True
            found += [None] * (len(keys) - len(found))
        return found

    def _find(self, transaction: lmdb.Transaction, key: bytes) -> Place | None:
        try:
            place = transaction.get(key[:SHORT_KEY_BYTES])
            return None if place is None else Place(*_PLACE.unpack(place))
        except (lmdb.Error, *DAMAGE):
            self._shared.is_damaged = True
            return None

    def put_many(self, places: Iterable[tuple[bytes, Place]]) -> None:
        pairs = [(key[:SHORT_KEY_BYTES], _PLACE.pack(*place)) for key, place in places]
        with self._writing() as transaction, transaction.cursor() as cursor:
            cursor.putmulti(pairs)

    def forget_many(self, places: Iterable[tuple[bytes, Place]]) -> int:
        """Drop keys that still have these places; how many did."""
        forgotten = 0
        with self._writing() as transaction:
            for key, place in places:
                short = key[:SHORT_KEY_BYTES]
                if transaction.get(short) == _PLACE.pack(*place):
                    transaction.delete(short)
                    forgotten += 1
        return forgotten

    def take_number(self, newest: Callable[[], int]) -> int:
        """A number for a new segment, above all that were given and above the `newest` file's."""
        with self._writing() as transaction:
            number = max(int(transaction.get(_COUNTER, b"0")), newest()) + 1  # the counter goes when the index is lost
            transaction.put(_COUNTER, b"%d" % number)
        return number

    def clear(self) -> None:
        """Empty it, but for the counter: other processes may have the files of old numbers open."""
        with self._writing() as transaction:
            newest = transaction.get(_COUNTER)
            transaction.drop(self._shared.map.open_db(), delete=False)
            if newest is not None:
                transaction.put(_COUNTER, newest)

    def replace(self) -> None:
        """Put an empty index in the place of a damaged one; other processes notice by themselves."""
        move_away(self._path)
        self._shared.open()

    def settle(self) -> None:
        """The index is whole: write it out, so that what other processes left behind is forgotten."""
        self._shared.map.sync(True)
        self._shared.marks.settle()

    def close(self) -> None:
        with _LOCK:
            self._shared.num_users -= 1
            if self._shared.num_users == 0:
                del _ENVIRONMENTS[self._owner]
                self._shared.close()

    def _writing(self) -> lmdb.Transaction:
        try:
            return self._shared.checked().begin(write=True)
        except DAMAGE:
            self._shared.is_damaged = True
            raise


def move_away(path: Path) -> None:
    """Take a broken index from its place; whoever has it open may go on reading it."""
    broken = path.with_name(f"{path.name}.broken-{time.time_ns()}")
    if path.exists():
        path.rename(broken)
        shutil.rmtree(broken, ignore_errors=True)
