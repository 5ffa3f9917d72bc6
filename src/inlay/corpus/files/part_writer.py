"""Builds one part: rows are appended, checkpoints taken, and in the end the part is published.

In: rows with their vectors, in the order of the input. Out: a part's directory. Until it is published the
part lies in `building/`; a checkpoint says how much of its files is good, and what came after it is cut off
when the work is taken up again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from inlay.corpus.files.npy_writer import HEADER_BYTES, NpyWriter
from inlay.corpus.files.part import (
    FAILED,
    PLACES,
    RECORDS,
    ROW,
    ROWS,
    SCALES,
    SHORT_KEYS,
    VECTORS,
    TextVector,
    check_of,
    sha256_of,
    short_key_of,
)
from inlay.corpus.files.postings import write_postings
from inlay.corpus.files.ragged import Ragged, RaggedWriter, kept_form, sizes_needed
from inlay.corpus.manifest import PartInfo
from inlay.corpus.recipe import FLOAT16, Recipe
from inlay.durable import sync_directory, write_atomically
from inlay.errors import ConfigError
from inlay.types import SPARSE, FloatArray

BUILDING, PROGRESS = "building", "progress.json"


class NewRow(NamedTuple):
    """A row to append; its vector is canonical, or one that the corpus has already."""

    key: bytes
    given: TextVector
    record: Mapping[str, Any]


class Progress(Struct):
    """How far the input has been read, and how much of each file is good."""

    recipe: Recipe
    source: dict[str, Any]  # what decides the rows: input, columns, is it an append
    rows_read: int = 0
    rows_hash: str = hashlib.sha256().hexdigest()  # of the rows read
    num_rows: int = 0
    num_failed: int = 0
    record_bytes: int = 0
    failed_bytes: int = 0


class PartWriter:
    """The part in `building/`, taken up where its last checkpoint was."""

    def __init__(self, directory: Path, name: str, recipe: Recipe, source: dict[str, Any]) -> None:
        self.path = directory / BUILDING
        if (directory / name).exists():  # it was stopped between its name and its line in the manifest
            (directory / name).rename(self.path)
        self._published = directory / name
        progress = self._read_progress()
        if progress is None and self.path.exists():  # of a run that was stopped before its first checkpoint
            shutil.rmtree(self.path)
        self.path.mkdir(exist_ok=True)
        self.progress = progress or Progress(recipe, source)
        if (self.progress.recipe, self.progress.source) != (recipe, source):
            raise ConfigError(
                f"{self.path} holds an unfinished corpus of another command: repeat that command to go on, or "
                f"remove {self.path} to start again"
            )
        rows = self.progress.num_rows
        dtype = np.dtype("<f2" if recipe.store_dtype == FLOAT16 else "<f4")
        self._check_files(dtype.itemsize)
        self._vectors = NpyWriter(self.path / VECTORS, dtype, (recipe.width,), rows)
        self._scales = NpyWriter(self.path / SCALES, np.dtype("<f4"), (), rows)
        self._rows = NpyWriter(self.path / ROWS, ROW, (), rows)
        self._others = {kind: RaggedWriter(self.path, kind, recipe.width, rows) for kind in recipe.others}
        self._records = _Lines(self.path / RECORDS, self.progress.record_bytes)
        self._failed = _Lines(self.path / FAILED, self.progress.failed_bytes)

    @property
    def num_rows(self) -> int:
        return self._vectors.num_rows

    def rows_before(self) -> Iterator[tuple[str | int, bytes]]:
        """Id and key of each row that was here when the work was taken up."""
        rows = np.load(self.path / ROWS, mmap_mode="r", allow_pickle=False)
        with (self.path / RECORDS).open("rb") as records:
            for row in rows:
                line = records.readline()
                if zlib.crc32(line) != row["record_crc32"]:
                    raise ConfigError(f"{self.path / RECORDS} is broken: remove {self.path} to start again")
                yield msgspec.json.decode(line)["id"], bytes(row["key"])

    def append(self, new: NewRow) -> None:
        num_tokens, is_truncated = new.given.num_tokens, new.given.is_truncated
        width = self.progress.recipe.width
        if new.given.vector.shape != (width,):
            raise ConfigError(f"a vector of shape {new.given.vector.shape} came for a corpus of {width} components")
        stored = new.given.vector.astype(self._vectors.dtype, copy=False)
        if self._vectors.dtype != new.given.vector.dtype:
            stored = (new.given.vector * _scale_of(new.given.vector)).astype(self._vectors.dtype)
        crc = check_of(new.key, num_tokens, is_truncated, stored)
        begin = self._records.size
        record_crc = self._records.append(new.record)
        row = (new.key, num_tokens, is_truncated, crc, record_crc, begin)
        self._vectors.append(stored[None])
        self._scales.append(np.array([_scale_of(stored)], dtype=np.float32))
        self._rows.append(np.array([row], dtype=ROW))
        for kind, writer in self._others.items():
            writer.append(kept_form(kind, new.given.others[kind]))

    def vector_of(self, row: int) -> TextVector:
        """A row that was appended before, as it is stored."""
        about = self._rows.read(row)
        others = {kind: writer.read(row) for kind, writer in self._others.items()}
        return TextVector(self._vectors.read(row), int(about["num_tokens"]), bool(about["truncated"]), others)

    def fail(self, report: Mapping[str, Any]) -> None:
        """A row that has no vector."""
        self._failed.append(report)
        self.progress.num_failed += 1

    def checkpoint(self, rows_read: int, rows_hash: str) -> None:
        """All that was appended is safe from here on."""
        for file in self._files():
            file.sync()
        progress = self.progress
        progress.rows_read, progress.rows_hash = rows_read, rows_hash
        progress.num_rows = self._vectors.num_rows
        progress.record_bytes, progress.failed_bytes = self._records.size, self._failed.size
        write_atomically(self.path / PROGRESS, progress)

    def publish(self) -> PartInfo:
        """Make the look-up, and give the part its name; `settle` follows when it is in the manifest."""
        num_distinct = self._write_lookup()
        if SPARSE in self._others:
            write_postings(self.path, Ragged(self.path, SPARSE))
        hashes = {file.name: sha256_of(file) for file in sorted(self.path.iterdir()) if file.name != PROGRESS}
        self.path.rename(self._published)
        sync_directory(self._published.parent)
        progress = self.progress
        about = (self.num_rows, num_distinct, progress.num_failed, progress.source, hashes, progress.rows_hash)
        return PartInfo(self._published.name, *about)

    def settle(self) -> None:
        """The part is in the manifest: nothing of it will be taken up again."""
        settle(self._published)

    def close(self) -> None:
        """Nothing is appended any more in this run."""
        for file in self._files():
            file.finish()

    def _files(self) -> Iterator[NpyWriter | RaggedWriter | _Lines]:
        yield from (self._vectors, self._scales, self._rows, self._records, self._failed)
        yield from self._others.values()

    def _read_progress(self) -> Progress | None:
        try:
            return msgspec.json.decode((self.path / PROGRESS).read_bytes(), type=Progress)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise ConfigError(f"its {PROGRESS} is broken ({error}): remove {self.path} to start again") from error

    def _check_files(self, item_bytes: int) -> None:
        """`ConfigError` where a file is shorter than the checkpoint says."""
        progress = self.progress
        row_bytes = {VECTORS: progress.recipe.width * item_bytes, SCALES: 4, ROWS: ROW.itemsize}
        needed = {name: HEADER_BYTES + size * progress.num_rows for name, size in row_bytes.items()}
        needed |= {RECORDS: progress.record_bytes, FAILED: progress.failed_bytes}
        recipe = progress.recipe
        for kind in recipe.others:
            needed |= sizes_needed(self.path, kind, recipe.width, progress.num_rows)
        for name, num_bytes in needed.items() if progress.rows_read else ():
            path = self.path / name
            if not path.exists() or path.stat().st_size < num_bytes:
                raise ConfigError(f"{path} is shorter than it was: remove {self.path} to start again")

    def _write_lookup(self) -> int:
        """Keys sorted by their first bytes, each with the first row that has it; how many there are."""
        first: dict[bytes, int] = {}
        keys = np.load(self.path / ROWS, mmap_mode="r", allow_pickle=False)["key"]
        for row, key in enumerate(keys):
            first.setdefault(bytes(key), row)
        short_keys = np.array([short_key_of(key) for key in first], dtype=np.uint64)
        places = np.array(list(first.values()), dtype=np.uint32)
        order = np.argsort(short_keys, kind="stable")
        for name, array in ((SHORT_KEYS, short_keys[order]), (PLACES, places[order])):
            with (self.path / name).open("wb") as file:
                np.save(file, array)
                file.flush()
                os.fsync(file.fileno())
        return len(first)


def settle(part: Path) -> None:
    """Take away what only an unfinished part needs."""
    (part / PROGRESS).unlink(missing_ok=True)


class _Lines:
    """A file of JSON lines that grows."""

    def __init__(self, path: Path, size: int) -> None:
        self.size = size
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._file.truncate(size)
        self._file.seek(size)

    def append(self, value: object) -> int:
        """The crc32 of the line."""
        line = msgspec.json.encode(value) + b"\n"
        self._file.write(line)
        self.size += len(line)
        return zlib.crc32(line)

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        self.sync()
        self._file.close()


def _scale_of(vector: FloatArray) -> float:
    """One over the length; 0 for a vector without one."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return 1 / length if length > 0 else 0.0
