"""Precomputes a corpus, or adds a part to one: rows in, files and a manifest out.

In: rows, an embedder (in this process or a server) and a recipe. Out: the manifest, replaced atomically once
the new part is whole. One process at a time writes to a directory.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from inlay.corpus.corpus import Corpus
from inlay.corpus.files.part import FAILED
from inlay.corpus.files.part_writer import PartWriter, settle
from inlay.corpus.manifest import FORMAT, MANIFEST, Manifest, read_manifest
from inlay.corpus.recipe import Recipe
from inlay.durable import write_atomically
from inlay.errors import ConfigError
from inlay.precompute.ingestion import Columns, Ingestion, Source, hash_rows
from inlay.precompute.input_rows import STDIN, Row

LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run has done."""

    manifest: Manifest
    num_new: int
    num_failed: int
    report: Path | None  # lists the rows that failed


def precompute(
    directory: Path,
    rows: Iterator[Row],
    input_name: str,
    columns: Columns,
    source: Source,
    recipe: Recipe,
    *,
    is_append: bool,
    tell: Callable[[int], None] = lambda number: None,
) -> Outcome:
    """Make a corpus, or add to it what is new.

    `input_name` tells one unfinished work from another; its rows are checked when it is taken up. `tell` hears
    how many more rows are done. `ConfigError` when the directory holds something else, or the unfinished work of
    another command.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
        about = {"input": input_name, "columns": [columns.text, columns.id, list(columns.keep)], "parts_before": 0}
        if not is_append and (whole := _made_by(directory, recipe, about)) is not None:
            return _as_it_is(directory, whole, hash_rows(rows, columns))
        before = _corpus_before(directory, recipe, is_append=is_append)
        parts = [] if before is None else before.manifest.parts
        about["parts_before"] = len(parts)
        writer = PartWriter(directory, f"part-{len(parts) + 1:04d}", recipe, about)
        try:
            Ingestion(writer, before, columns, source, tell).run(rows)
        finally:
            writer.close()
        report = _publish_report(directory, writer)
        if writer.num_rows == 0:
            shutil.rmtree(writer.path)
            if before is None:
                raise ConfigError(f"no row has a vector, so there is no corpus: {report or 'the input'} tells why")
            return Outcome(before.manifest, 0, writer.progress.num_failed, report)
        info = writer.publish()
        created = datetime.now(UTC).isoformat(timespec="seconds") if before is None else before.manifest.created
        manifest = Manifest(FORMAT, recipe, created, [*parts, info])
        write_atomically(directory / MANIFEST, manifest)
        writer.settle()
        return Outcome(manifest, info.num_rows, info.num_failed, report)


def _made_by(directory: Path, recipe: Recipe, about: dict[str, Any]) -> Manifest | None:
    """The manifest of a corpus that this very command has made before; a pipe is another input each time."""
    if not (directory / MANIFEST).exists() or about["input"] == STDIN:
        return None
    manifest = read_manifest(directory)
    return manifest if manifest.recipe == recipe and manifest.parts[0].source == about else None


def _as_it_is(directory: Path, whole: Manifest, rows_hash: str) -> Outcome:
    """What a command finds that has been done before; `ConfigError` where its input is another now."""
    made = whole.parts[0]
    if made.rows_hash != rows_hash:
        raise ConfigError(
            f"{directory} was made of this input, which has changed since: add the new rows with --append, or name "
            "another directory"
        )
    report = directory / FAILED
    return Outcome(whole, 0, made.num_failed, report if made.num_failed and report.exists() else None)


def _corpus_before(directory: Path, recipe: Recipe, *, is_append: bool) -> Corpus | None:
    if not (directory / MANIFEST).exists():
        if is_append:
            raise ConfigError(f"{directory} is not a corpus yet: leave out --append to make it")
        return None
    manifest = read_manifest(directory)
    if not is_append:
        raise ConfigError(
            f"{directory} is a whole corpus of {manifest.num_rows} rows: there is nothing to go on with. Add rows "
            "with --append, or name another directory"
        )
    if manifest.recipe != recipe:
        raise ConfigError(
            f"{directory} was made otherwise ({_differences(manifest.recipe, recipe)}): all rows of a corpus must be "
            "alike. Use the same, or another directory"
        )
    for part in manifest.parts:
        settle(directory / part.name)  # the last run may have been stopped just before it
    return Corpus(directory)


def _differences(made: Recipe, asked: Recipe) -> str:
    pairs = ((name, getattr(made, name), getattr(asked, name)) for name in Recipe.__struct_fields__)
    return ", ".join(f"{name} {_shown(old)}, not {_shown(new)}" for name, old, new in pairs if old != new)


def _shown(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else "none" if value is None else str(value)


def _publish_report(directory: Path, writer: PartWriter) -> Path | None:
    """The list of failed rows of this run, beside the manifest; none when none failed."""
    report = directory / FAILED
    if writer.progress.num_failed == 0:
        report.unlink(missing_ok=True)
        return None
    shutil.copyfile(writer.path / FAILED, report)
    return report


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One writer at a time; the lock ends with the process."""
    with (directory / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"another process is writing to {directory}: wait for it") from error
        yield
