"""The directory of a server's jobs: the bytes of its files, bounded together, beside the store of their records.

In: a path. Out: room for files, and the files. One server has a directory at a time. What a crash left without a
record is removed at the next start.
"""

from __future__ import annotations

import fcntl
import hmac
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from threading import Lock

from inlay.durable import sync_directory
from inlay.errors import ConfigError, StorageFull
from inlay.jobs.batch import StoredFile
from inlay.jobs.store import JobStore
from inlay.telemetry.logs import get_logger

log = get_logger("jobs")

FILES, RECORDS, LOCK = "files", "jobs.sqlite3", "lock"


class JobDirectory:
    """See the module. Safe to call from any thread."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._lock = Lock()
        try:
            for folder in (path, path / FILES):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._held = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.store = JobStore(path / RECORDS)
            self.used_bytes = self._settle()
        except BlockingIOError as error:
            raise ConfigError(f"--jobs {path}: another server uses it; give each a directory of its own") from error
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"--jobs {path}: cannot be used ({getattr(error, 'strerror', None) or error})") from error

    def owner_of(self, key: bytes | None) -> str:
        """What stands for an API key in the records, from which the key is not to be had; "" for none."""
        return "" if key is None else hmac.digest(self.store.salt, key, "sha256").hex()[:32]

    def path_of(self, file_id: str) -> Path:
        return self._path / FILES / file_id

    def is_there(self) -> bool:
        """A disk may be away for a while."""
        return (self._path / FILES).is_dir()

    def check_room(self, num_bytes: int) -> None:
        """`StorageFull` when the files would have more bytes than they may."""
        if self.used_bytes + num_bytes > self._max_bytes:
            raise StorageFull(
                f"the files of all jobs may have {self._max_bytes} bytes together, and these would be more: delete "
                "files that are not needed, or raise --max-jobs-bytes"
            )

    def take(self, num_bytes: int) -> None:
        """The same; and nothing is taken then."""
        with self._lock:
            self.check_room(num_bytes)
            self.used_bytes += num_bytes

    def give_back(self, num_bytes: int) -> None:
        with self._lock:
            self.used_bytes -= num_bytes

    def remove(self, file: StoredFile) -> None:
        """First from the records: a file without one goes at the next start."""
        self.store.remove_file(file.id)
        with suppress(FileNotFoundError):
            path = self.path_of(file.id)
            num_bytes = path.stat().st_size
            path.unlink()
            self.give_back(num_bytes)

    def close(self) -> None:
        self.store.close()
        os.close(self._held)

    def _settle(self) -> int:
        """Remove what has no record, and count what is left."""
        known = {file.id for file in self.store.all_files()}
        for batch in self.store.unended():
            known |= {batch.output_file_id, batch.error_file_id}
        used = 0
        for path in (self._path / FILES).iterdir():
            if path.name in known:
                used += path.stat().st_size
            else:
                path.unlink()
        return used


class Upload:
    """A file on its way in; as a context manager it leaves nothing where it was not finished."""

    def __init__(self, directory: JobDirectory, file_id: str) -> None:
        self.num_bytes = 0
        self._directory = directory
        self._path = directory.path_of(file_id)
        self._file = self._path.open("xb")
        self._is_finished = False

    def write(self, data: bytes) -> None:
        self._directory.take(len(data))
        self.num_bytes += len(data)
        self._file.write(data)

    def finish(self, file: StoredFile) -> None:
        """Keep it, once its bytes have reached the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        sync_directory(self._path.parent)
        self._directory.store.add_file(file)
        self._is_finished = True

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_finished:
            return
        with suppress(OSError):
            self._file.close()
        self._path.unlink(missing_ok=True)
        self._directory.give_back(self.num_bytes)
