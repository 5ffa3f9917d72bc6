"""Fills segments for one process, and drops the oldest when the bound in bytes is reached.

In: records by the room that they get. Out: records in segments, and their places in the index. A segment is filled
under a lock that ends with the process; one whose process has ended is taken over. A full one is written out to the
disk on a thread of its own, where few wait. Lives on one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore

from inlay.cache.disk.segment import HEADER, Segment, stride_of
from inlay.cache.disk.segment_index import Place, SegmentIndex
from inlay.cache.disk.segments import Segments
from inlay.cache.record import Record
from inlay.telemetry.logs import get_logger

log = get_logger("cache")

FORGOTTEN_AT_A_TIME = 2_000  # entries of dropped segments, with each write
SEGMENTS_IN_BOUND = 16  # so that dropping the oldest drops a sixteenth
LARGEST_SEGMENT = 1 << 30
MOST_UNSYNCED = 4  # full segments that wait for a slow disk, each with a descriptor


class SegmentWriter:
    """At most `max_bytes` of segments in a directory."""

    def __init__(self, path: Path, max_bytes: int, places: SegmentIndex) -> None:
        self.evictions = 0
        self._max_bytes = max_bytes
        self._places = places
        self._segments = Segments(path)
        self._active: dict[int, tuple[int, Segment, int]] = {}  # room → number, segment being filled, its next slot
        self._dropped: deque[tuple[int, Segment, int]] = deque()  # number, file, next slot to take out of the index
        self._syncing = ThreadPoolExecutor(1, thread_name_prefix="inlay-disk-sync")
        self._may_wait = BoundedSemaphore(MOST_UNSYNCED)

    def write_many(self, rooms: Mapping[int, list[Record]]) -> None:
        """Keep records; OSError when the disk is full."""
        for room, records in rooms.items():
            left = records
            while left and self._num_slots(room) > 0:
                left = self._write_some(room, left)
        self._forget_some()
        self._segments.sweep()

    def drop_all(self) -> None:
        for number, _ in self._segments.listed():
            self._drop_segment(number)

    def close(self) -> None:
        """Write out what was begun."""
        self._syncing.shutdown()
        for _, segment, _ in self._active.values():
            segment.sync()
            segment.close()
        for _, segment, _ in self._dropped:
            segment.close()
        self._active.clear()
        self._dropped.clear()
        self._segments.close()

    def _write_some(self, room: int, records: list[Record]) -> list[Record]:
        """Write as many as the active segment takes, and give back the rest."""
        number, segment, slot = self._active_segment(room)
        num_free = segment.num_slots - slot
        now, later = records[:num_free], records[num_free:]
        segment.write(slot, now)
        self._active[room] = (number, segment, slot + len(now))
        self._places.put_many((record.key, Place(number, at)) for at, record in enumerate(now, start=slot))
        if len(now) == num_free:
            del self._active[room]
            self._write_out(segment)
        return later

    def _active_segment(self, room: int) -> tuple[int, Segment, int]:
        """The segment that this process is filling, and its first empty slot."""
        active = self._active.get(room)
        if active is None or not active[1].exists():
            if active is not None:
                del self._active[room]
                active[1].close()
            active = self._active[room] = self._adopt_segment(room) or self._new_segment(room)
        return active

    def _adopt_segment(self, room: int) -> tuple[int, Segment, int] | None:
        """A segment with room that nobody fills any more: its process has ended."""
        for number, _ in reversed(self._segments.listed()):
            segment = self._segments.open(number)
            if segment is None or segment.room != room or not segment.has_room():
                continue
            # Asked again under the lock: its owner may have filled it, or somebody dropped it, just before.
            if segment.try_lock() and segment.exists() and segment.has_room():
                self._segments.take(number)
                return number, segment, segment.first_empty()
            segment.unlock()
        return None

    def _new_segment(self, room: int) -> tuple[int, Segment, int]:
        num_slots = self._num_slots(room)
        self._make_room(HEADER.size + num_slots * stride_of(room))
        while True:
            number = self._places.take_number(self._segments.newest)
            segment = Segment.create(self._segments.file(number), room, num_slots)
            if segment.try_lock():
                return number, segment, 0
            segment.close()  # another process found it before it was locked, and fills it now

    def _num_slots(self, room: int) -> int:
        """Of a new segment: a sixteenth of the bound, or one record; none where not even that fits."""
        stride = stride_of(room)
        most = (self._max_bytes - HEADER.size) // stride
        return min(most, max(1, min(LARGEST_SEGMENT, self._max_bytes // SEGMENTS_IN_BOUND) // stride))

    def _make_room(self, num_bytes: int) -> None:
        """Drop the oldest segments until so many bytes fit the bound."""
        listed = self._segments.listed()
        total = sum(size for _, size in listed)
        for number, size in listed:
            if total + num_bytes <= self._max_bytes:
                return
            self._drop_segment(number)
            total -= size

    def _drop_segment(self, number: int) -> None:
        """Take a file away; its entries point nowhere, which is a miss, and leave the index little by little."""
        for room, active in list(self._active.items()):
            if active[0] == number:
                del self._active[room]
                active[1].close()
        segment = self._segments.open(number)
        if segment is not None:
            self._segments.take(number)
            self._dropped.append((number, segment, 0))
        self._segments.file(number).unlink(missing_ok=True)

    def _write_out(self, segment: Segment) -> None:
        """Sync and close a full one. Where many wait already it is left to the system, and read by its checksums."""
        if self._may_wait.acquire(blocking=False):
            self._syncing.submit(self._sync_and_close, segment)
        else:
            segment.close()

    def _sync_and_close(self, segment: Segment) -> None:
        try:
            if segment.exists():
                segment.sync()
        except OSError as error:
            log.warning("a full segment could not be written out", file=str(segment.path), error=repr(error))
        finally:
            segment.close()
            self._may_wait.release()

    def _forget_some(self) -> None:
        """Take some entries of dropped segments out of the index: each write does a little of it."""
        budget = FORGOTTEN_AT_A_TIME
        while self._dropped and budget > 0:
            number, segment, first = self._dropped.popleft()
            slots = range(first, min(first + budget, segment.num_slots))
            budget -= len(slots)
            places = ((segment.read_key(slot), Place(number, slot)) for slot in slots)
            self.evictions += self._places.forget_many(places)
            if slots.stop < segment.num_slots:
                self._dropped.appendleft((number, segment, slots.stop))
            else:
                segment.close()
