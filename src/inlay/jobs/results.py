"""The two files that a batch gives: lines are added to them, and have reached the disk before they count.

In: lines. Out: the files' lengths, for the record. What was written after the lengths in the record, when the process
ended, is cut off at the next start, so that each line is answered once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import BinaryIO

from inlay.durable import sync_directory
from inlay.errors import UnknownFile
from inlay.jobs.batch import Batch
from inlay.jobs.directory import JobDirectory


class ResultFiles:
    """Of one batch that is run; a context manager."""

    def __init__(self, directory: JobDirectory, batch: Batch) -> None:
        self._directory = directory
        self._output = self._open(batch.output_file_id, batch.progress.output_bytes)
        self._errors = self._open(batch.error_file_id, batch.progress.error_bytes)
        sync_directory(directory.path_of(batch.output_file_id).parent)

    def add(self, output: Sequence[bytes], errors: Sequence[bytes]) -> tuple[int, int]:
        """The lengths of the files with these lines; `StorageFull` where there is no room for all of them."""
        parts = ((self._output, b"".join(output)), (self._errors, b"".join(errors)))
        num_bytes = sum(len(data) for _, data in parts)
        self._directory.take(num_bytes)
        before = self._lengths()
        try:
            for file, data in parts:
                _append(file, data)
        except OSError:
            for file, length in zip((self._output, self._errors), before, strict=True):
                file.truncate(length)
            self._directory.give_back(num_bytes)
            raise
        return self._lengths()

    def _lengths(self) -> tuple[int, int]:
        return self._output.tell(), self._errors.tell()

    def __enter__(self) -> ResultFiles:
        return self

    def __exit__(self, *error: object) -> None:
        self._output.close()
        self._errors.close()

    def _open(self, file_id: str, num_bytes: int) -> BinaryIO:
        path = self._directory.path_of(file_id)
        file = path.open("r+b" if path.exists() else "w+b", buffering=0)
        size = file.seek(0, 2)
        if size < num_bytes:
            file.close()
            raise UnknownFile(f"the file {path} has lost what was written to it: send the batch again")
        file.truncate(num_bytes)
        file.seek(num_bytes)
        self._directory.give_back(size - num_bytes)
        return file


def _append(file: BinaryIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    if data:
        os.fsync(file.fileno())
