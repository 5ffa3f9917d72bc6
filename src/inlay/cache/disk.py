"""The disk tier: segment files with the vectors, and an LMDB index from digest to segment and slot.

In and out: entries by key. Data is written first and the index second, so an index entry never points at
what is not there yet; whatever it points at is checked by digest and checksum when it is read, so a torn
tail, a flipped bit, a vanished segment or a stale index are misses. Many processes may use one directory:
each fills segments of its own, under a lock that ends with it. The oldest segments go when the bound in
bytes is reached.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path

from inlay.cache.places import Place, Places
from inlay.cache.record import NEVER, Record, stride_of
from inlay.cache.segment import HEADER, Segment
from inlay.telemetry.logs import get_logger
from inlay.types import Entry

log = get_logger("cache")

INDEX, SEGMENTS, SUFFIX = "index", "segments", "seg"
REBUILD_BATCH = 10_000  # entries of one transaction
FORGOTTEN_AT_A_TIME = 2_000  # entries of dropped segments, with each write
SEGMENTS_IN_BOUND = 16  # so that dropping the oldest drops a sixteenth
LARGEST_SEGMENT = 1 << 30


class DiskTier:
    """At most `max_bytes` of segments in a directory, entries for at most `ttl` seconds."""

    name = "disk"
    lookup_seconds = 0.5  # a disk that takes longer is a miss

    def __init__(self, path: Path, max_bytes: int, ttl: float | None = None) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.ttl = ttl
        self.evictions = self.errors = 0
        self._segments: dict[int, Segment] = {}
        self._active: dict[int, tuple[int, int]] = {}  # width → segment being written, its next slot
        self._dropped: deque[tuple[int, Segment, int]] = deque()  # number, file, next slot to take out of the index
        self._places = Places(path / INDEX, max_bytes)
        # One thread: the tier keeps its own order, and LMDB's transactions stay on their thread.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inlay-disk")

    async def get_many(self, keys: Iterable[bytes]) -> dict[bytes, Entry]:
        """The entries that are here, whole and not expired."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.read_many, list(keys))

    async def put_many(self, entries: Mapping[bytes, Entry]) -> None:
        """Keep entries; OSError when the disk is full."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self.write_many, dict(entries))

    def numbers(self) -> Mapping[str, float]:
        return {
            "entries": self.num_entries,
            "bytes": self.num_bytes,
            "evictions": self.evictions,
            "errors": self.errors,
        }

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self.release)
        self._thread.shutdown()

    @property
    def num_entries(self) -> int:
        return self._places.num_entries

    @property
    def is_index_cut_short(self) -> bool:
        return self._places.is_cut_short

    @property
    def num_bytes(self) -> int:
        """Of all segments, room that is set aside included."""
        return sum(size for _, size in self._listed())

    def read_many(self, keys: list[bytes]) -> dict[bytes, Entry]:
        """The same as `get_many`, on the calling thread."""
        found: dict[bytes, Entry] = {}
        now = time.time()
        for key, place in zip(keys, self._places.find_many(keys), strict=True):
            record = None if place is None else self._read(place)
            if record is not None and record.digest == key and record.expires > now:
                found[key] = record.entry
            elif record is None and place is not None:
                self.errors += self._is_broken(place)
        return found

    def write_many(self, entries: Mapping[bytes, Entry]) -> None:
        """The same as `put_many`, on the calling thread."""
        expires = NEVER if self.ttl is None else time.time() + self.ttl
        widths: dict[int, list[Record]] = {}
        for key, entry in entries.items():
            widths.setdefault(len(entry.vector), []).append(Record(key, expires, entry))
        for width, records in widths.items():
            if self._num_slots(width) > 0:
                while records:
                    records = self._write_some(width, records)
        self._forget_some()

    def records(self) -> Iterator[tuple[int, int, Record]]:
        """Every good record of every segment, oldest first, with its segment and slot."""
        for number, _ in self._listed():
            segment = self._open(number)
            if segment is not None:
                yield from ((number, slot, record) for slot, record in segment.read_all())

    def rebuild(self) -> int:
        """Make the index anew from the segments; the number of entries."""
        self._places.clear()
        records = self.records()
        while batch := list(islice(records, REBUILD_BATCH)):
            self._places.put_many((record.digest, Place(number, slot)) for number, slot, record in batch)
        return self.num_entries

    def check(self) -> tuple[int, int]:
        """How many records are good, and how many slots hold something that is none."""
        good = bad = 0
        for number, _ in self._listed():
            segment = self._open(number)
            if segment is None:
                bad += 1
                continue
            for slot in range(segment.num_slots):
                is_good = segment.read(slot) is not None
                good += is_good
                bad += not is_good and not segment.is_empty(slot)
        return good, bad

    def purge(self) -> None:
        """Drop everything."""
        for number, _ in self._listed():
            self._drop_segment(number)
        self._places.clear()

    def _write_some(self, width: int, records: list[Record]) -> list[Record]:
        """Write as many as the active segment takes, and give back the rest."""
        number, slot = self._active_segment(width)
        segment = self._segments[number]
        room = segment.num_slots - slot
        now, later = records[:room], records[room:]
        segment.write(slot, now)
        self._active[width] = (number, slot + len(now))
        self._places.put_many((record.digest, Place(number, at)) for at, record in enumerate(now, start=slot))
        if len(now) == room:
            segment.sync()
            del self._active[width]
        return later

    def _active_segment(self, width: int) -> tuple[int, int]:
        """The segment that this process is filling, and its first empty slot."""
        number, slot = self._active.get(width, (0, 0))
        if number == 0 or not self._segments[number].exists():
            number, slot = self._adopt_segment(width) or (self._new_segment(width), 0)
            self._active[width] = (number, slot)
        return number, slot

    def _adopt_segment(self, width: int) -> tuple[int, int] | None:
        """A segment with room that nobody fills any more: its process has ended."""
        for number, _ in reversed(self._listed()):
            segment = self._open(number)
            if segment is None or segment.width != width or not segment.num_slots:
                continue
            if segment.is_empty(segment.num_slots - 1) and segment.exists() and segment.try_lock():
                return number, segment.first_empty()
        return None

    def _new_segment(self, width: int) -> int:
        num_slots = self._num_slots(width)
        self._make_room(HEADER.size + num_slots * stride_of(width))
        number = self._places.take_number(self._newest)
        self._segments[number] = Segment.create(self._file(number), width, num_slots)
        self._segments[number].try_lock()
        return number

    def _num_slots(self, width: int) -> int:
        """Of a new segment: a sixteenth of the bound, or one record; none where not even that fits."""
        stride = stride_of(width)
        most = (self.max_bytes - HEADER.size) // stride
        return min(most, max(1, min(LARGEST_SEGMENT, self.max_bytes // SEGMENTS_IN_BOUND) // stride))

    def _make_room(self, num_bytes: int) -> None:
        """Drop the oldest segments until so many bytes fit the bound."""
        listed = self._listed()
        total = sum(size for _, size in listed)
        for number, size in listed:
            if total + num_bytes <= self.max_bytes:
                return
            self._drop_segment(number)
            total -= size

    def _drop_segment(self, number: int) -> None:
        """Take a file away; its entries point nowhere, which is a miss, and leave the index little by little."""
        segment = self._open(number)
        if segment is not None:
            self._dropped.append((number, segment, 0))
            del self._segments[number]
        self._active = {width: active for width, active in self._active.items() if active[0] != number}
        self._file(number).unlink(missing_ok=True)

    def _forget_some(self) -> None:
        """Take some entries of dropped segments out of the index: each write does a little of it."""
        budget = FORGOTTEN_AT_A_TIME
        while self._dropped and budget > 0:
            number, segment, first = self._dropped.popleft()
            slots = range(first, min(first + budget, segment.num_slots))
            budget -= len(slots)
            places = ((segment.read_digest(slot), Place(number, slot)) for slot in slots)
            self.evictions += self._places.forget_many(places)
            if slots.stop < segment.num_slots:
                self._dropped.appendleft((number, segment, slots.stop))
            else:
                segment.close()

    def _read(self, place: Place) -> Record | None:
        segment = self._open(place.segment)
        return None if segment is None else segment.read(place.slot)

    def _is_broken(self, place: Place) -> bool:
        """Does a slot hold something that is no record? A segment that was dropped holds nothing."""
        segment = self._open(place.segment)
        return segment is not None and place.slot < segment.num_slots and not segment.is_empty(place.slot)

    def _open(self, number: int) -> Segment | None:
        """A segment by its number; None when it has gone or is none."""
        if number not in self._segments:
            try:
                self._segments[number] = Segment.open(self._file(number))
            except (OSError, ValueError):
                return None
        return self._segments[number]

    def _newest(self) -> int:
        return max((number for number, _ in self._listed()), default=0)

    def _listed(self) -> list[tuple[int, int]]:
        """Number and size of each segment file, oldest first."""
        found = []
        for file in os.scandir(self.path / SEGMENTS):
            stem, _, suffix = file.name.partition(".")
            if suffix == SUFFIX and stem.isdigit():
                with suppress(FileNotFoundError):
                    found.append((int(stem), file.stat().st_size))
        return sorted(found)

    def _file(self, number: int) -> Path:
        return self.path / SEGMENTS / f"{number:010d}.{SUFFIX}"

    def release(self) -> None:
        """The same as `close`, on the calling thread."""
        for number, _ in self._active.values():
            self._segments[number].sync()
        for segment in [*self._segments.values(), *(segment for _, segment, _ in self._dropped)]:
            segment.close()
        self._dropped.clear()
        self._segments.clear()
        self._places.close()
