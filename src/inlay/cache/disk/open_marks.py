"""Tells whether a directory was in use when its machine went down.

In: a folder for marks. Out: a mark for as long as this process uses the directory, with the boot that it was made in.
A mark of another boot means that the machine went down before its owner was done: what was not written to the disk by
then is lost, in no order. A process that was killed loses nothing: the kernel writes out what it had.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class OpenMarks:
    """The marks of a directory, and this process's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        boot = _boot_id()
        self.was_cut_off = any(_read(mark) != boot and _is_left(mark) for mark in self._marks())
        self._own = folder / f"{os.getpid()}-{os.urandom(4).hex()}"
        new = folder / f".{self._own.name}"
        self._file = new.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)  # until the process ends, however it ends
        self._file.write(boot)
        self._file.flush()
        os.fsync(self._file.fileno())
        new.rename(self._own)

    def settle(self) -> None:
        """All is on the disk: forget those who are not here any more."""
        for mark in self._marks():
            if mark != self._own and _is_left(mark):
                mark.unlink(missing_ok=True)
        self.was_cut_off = False

    def _marks(self) -> list[Path]:
        return [mark for mark in self._folder.iterdir() if not mark.name.startswith(".")]

    def close(self) -> None:
        """All is on the disk, and this process is done."""
        self._own.unlink(missing_ok=True)
        self._file.close()


def _boot_id() -> str:
    """The same until the machine starts again; never the same where the system cannot tell."""
    with suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return os.urandom(16).hex()


def _read(mark: Path) -> str:
    with suppress(OSError):
        return mark.read_text().strip()
    return ""


def _is_left(mark: Path) -> bool:
    """Has its owner gone?"""
    try:
        with mark.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
