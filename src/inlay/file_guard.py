"""Notices when files that are mapped are changed: what is read of them would no longer be what was loaded.

In: files. Out: the one that has changed. A mapped file that is written to in place gives other numbers, and one that
is cut short ends the process where it is read beyond its end; so whoever reads a map asks before, and after. A file
that is replaced by another of its name stays mapped as it was, and is no change.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable
from pathlib import Path


class FileGuard:
    """Keeps files open, and what is known of them: size and time of change."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = [(file, os.open(file, os.O_RDONLY)) for file in files]
        weakref.finalize(self, _close_all, [descriptor for _, descriptor in self._files])
        self._states = [_state_of(descriptor) for _, descriptor in self._files]

    def changed(self) -> Path | None:
        """The first file that is not what it was; costs a microsecond a file."""
        for (file, descriptor), state in zip(self._files, self._states, strict=True):
            if _state_of(descriptor) != state:
                return file
        return None

    def shortened(self) -> Path | None:
        """The first file that is shorter than it was; enough where all that is read proves itself."""
        for (file, descriptor), (size, _) in zip(self._files, self._states, strict=True):
            if os.fstat(descriptor).st_size < size:
                return file
        return None


def _state_of(descriptor: int) -> tuple[int, int]:
    state = os.fstat(descriptor)
    return state.st_size, state.st_mtime_ns


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
