"""Keeps the records of files and batches in SQLite: what is written has reached the disk, and is whole or not there.

In and out: the nouns of `batch`. Files' bytes are the directory's. Safe to call from any thread.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TypeVar

import msgspec

from inlay.jobs.batch import Batch, StoredFile

T = TypeVar("T", StoredFile, Batch)

SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, owner TEXT, purpose TEXT, record BLOB);
CREATE TABLE IF NOT EXISTS batches (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, owner TEXT, ended_at INTEGER, record BLOB);
CREATE TABLE IF NOT EXISTS salt (value BLOB);
"""
FORMAT = 1


class JobStore:
    """One SQLite file."""

    def __init__(self, path: Path) -> None:
        self._lock = Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute(
            "PRAGMA locking_mode=EXCLUSIVE"
        )  # so that no memory is shared, also not over a network
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        found = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, FORMAT):
            raise sqlite3.DatabaseError(f"its format {found} is of another version of Inlay")
        self._connection.executescript(SCHEMA)
        self._connection.execute(f"PRAGMA user_version={FORMAT}")
        self.salt = self._read_salt()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def add_file(self, file: StoredFile) -> None:
        with self._transaction() as execute:
            _insert_file(execute, file)

    def file(self, file_id: str) -> StoredFile | None:
        return self._one("SELECT record FROM files WHERE id = :id", {"id": file_id}, StoredFile)

    def files(
        self, owner: str, purpose: str | None, after: str | None, limit: int, *, descends: bool
    ) -> list[StoredFile]:
        """Of one owner, in the order in which they came, or the other way round; those behind the id `after`."""
        return self._page("files", owner, after, limit, StoredFile, purpose=purpose, descends=descends)

    def all_files(self) -> list[StoredFile]:
        return self._many("SELECT record FROM files ORDER BY number", {}, StoredFile)

    def remove_file(self, file_id: str) -> None:
        with self._transaction() as execute:
            execute("DELETE FROM files WHERE id = ?", (file_id,))

    def add_batch(self, batch: Batch) -> None:
        with self._transaction() as execute:
            values = (batch.id, batch.owner, msgspec.json.encode(batch))
            execute("INSERT INTO batches (id, owner, record) VALUES (?, ?, ?)", values)

    def batch(self, batch_id: str) -> Batch | None:
        return self._one("SELECT record FROM batches WHERE id = :id", {"id": batch_id}, Batch)

    def batches(self, owner: str, after: str | None, limit: int) -> list[Batch]:
        """Of one owner, the last first; those behind the id `after`."""
        return self._page("batches", owner, after, limit, Batch, purpose=None, descends=True)

    def unended(self) -> list[Batch]:
        """In the order in which they came."""
        return self._many("SELECT record FROM batches WHERE ended_at IS NULL ORDER BY number", {}, Batch)

    def update(self, batch_id: str, change: Callable[[Batch], Batch], files: list[StoredFile] | None = None) -> Batch:
        """The batch as it is after a change of what it is by now; with it, files come to be."""
        with self._transaction() as execute:
            (record,) = execute("SELECT record FROM batches WHERE id = ?", (batch_id,)).fetchone()
            changed = change(msgspec.json.decode(record, type=Batch))
            ended_at = changed.reached.get(changed.status) if changed.status.is_end else None
            execute(
                "UPDATE batches SET record = ?, ended_at = ? WHERE id = ?",
                (msgspec.json.encode(changed), ended_at, batch_id),
            )
            for file in files or ():
                _insert_file(execute, file)
        return changed

    def forget_batches(self, ended_before: int) -> None:
        with self._transaction() as execute:
            execute("DELETE FROM batches WHERE ended_at < ?", (ended_before,))

    def _read_salt(self) -> bytes:
        with self._transaction() as execute:
            if (found := execute("SELECT value FROM salt").fetchone()) is not None:
                return bytes(found[0])
            salt = secrets.token_bytes(32)
            execute("INSERT INTO salt (value) VALUES (?)", (salt,))
            return salt

    def _page(
        self,
        table: str,
        owner: str,
        after: str | None,
        limit: int,
        kind: type[T],
        *,
        purpose: str | None,
        descends: bool,
    ) -> list[T]:
        sign, order = ("<", "DESC") if descends else (">", "ASC")
        wanted = "owner = :owner"
        if purpose is not None:
            wanted += " AND purpose = :purpose"
        if after is not None:
            wanted += f" AND number {sign} (SELECT number FROM {table} WHERE id = :after)"  # noqa: S608 - a name of ours
        values = {"owner": owner, "purpose": purpose, "after": after, "limit": limit}
        query = f"SELECT record FROM {table} WHERE {wanted} ORDER BY number {order} LIMIT :limit"  # noqa: S608
        return self._many(query, values, kind)

    def _one(self, query: str, values: Mapping[str, str | int | None], kind: type[T]) -> T | None:
        return next(iter(self._many(query, values, kind)), None)

    def _many(self, query: str, values: Mapping[str, str | int | None], kind: type[T]) -> list[T]:
        with self._lock:
            rows = self._connection.execute(query, values).fetchall()
        return [msgspec.json.decode(record, type=kind) for (record,) in rows]

    @contextmanager
    def _transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def _insert_file(execute: Callable[..., sqlite3.Cursor], file: StoredFile) -> None:
    values = (file.id, file.owner, file.purpose, msgspec.json.encode(file))
    execute("INSERT INTO files (id, owner, purpose, record) VALUES (?, ?, ?, ?)", values)
