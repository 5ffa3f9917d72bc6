"""Names on a disk that outlive a power cut. In: a path, and what is to lie there. Out: it has reached the disk."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


def write_atomically(path: Path, value: object) -> None:
    """JSON under its name at once and for good, or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """A rename in the directory outlives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
