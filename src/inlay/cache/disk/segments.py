"""The segment files of a directory, by their numbers: the oldest has the lowest.

In: numbers. Out: open files. Each thread has files of its own, so none is closed under another's hands. A file that
was removed is let go of within a second, and at most `MOST_OPEN` are open: descriptors and disk come back.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from inlay.cache.disk.segment import Segment

SEGMENTS, SUFFIX = "segments", "seg"
SWEEP_SECONDS = 1.0
MOST_OPEN = 64


class Segments:
    """Open segments. Lives on one thread."""

    def __init__(self, path: Path) -> None:
        self._folder = path / SEGMENTS
        self._open: OrderedDict[int, Segment] = OrderedDict()  # those used last at the end
        self._swept = time.monotonic()

    def open(self, number: int) -> Segment | None:
        """A segment by its number; None when it has gone or is none."""
        segment = self._open.get(number)
        if segment is None:
            try:
                segment = Segment.open(self.file(number))
            except (OSError, ValueError):
                return None
            self.keep(number, segment)
        self._open.move_to_end(number)
        return segment

    def keep(self, number: int, segment: Segment) -> None:
        """One that was opened elsewhere."""
        self._open[number] = segment
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)[1].close()

    def take(self, number: int) -> Segment | None:
        """Give a segment away."""
        return self._open.pop(number, None)

    def sweep(self) -> None:
        """Now and then: close those whose files were removed."""
        if time.monotonic() - self._swept < SWEEP_SECONDS:
            return
        self._swept = time.monotonic()
        for number in [number for number, segment in self._open.items() if not segment.exists()]:
            self._open.pop(number).close()

    def close(self) -> None:
        for segment in self._open.values():
            segment.close()
        self._open.clear()

    def listed(self) -> list[tuple[int, int]]:
        """Number and size of each segment file, oldest first."""
        found = []
        for file in os.scandir(self._folder):
            stem, _, suffix = file.name.partition(".")
            if suffix == SUFFIX and stem.isdigit():
                with suppress(FileNotFoundError):
                    found.append((int(stem), file.stat().st_size))
        return sorted(found)

    def newest(self) -> int:
        return max((number for number, _ in self.listed()), default=0)

    def file(self, number: int) -> Path:
        return self._folder / f"{number:010d}.{SUFFIX}"
