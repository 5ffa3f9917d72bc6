"""Reads rows from txt, jsonl, csv and parquet, one file or a folder of them, and numbers them as a person counts.

In: a path, or `-` for standard input. Out: rows with their place (the file, and line or row from 1),
their text and all their columns, or the reason why there is no text.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from inlay.errors import ConfigError

FORMATS = ("txt", "jsonl", "csv", "parquet")
SUFFIXES = {"ndjson": "jsonl", **{name: name for name in FORMATS}}
STDIN = "-"
ENCODING = "utf-8-sig"  # with or without the mark that Excel puts first
LONGEST_CELL = 1 << 30

Advance = Callable[[int], None]  # told how many bytes of the input have been read


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `text`, or the `problem` that it has. `number` counts over the whole input."""

    number: int
    text: str = ""
    problem: str | None = None
    place: str = ""  # as a person would name it: `file.txt:12`; `12` from a pipe
    values: Mapping[str, Any] = field(default_factory=dict)  # all columns; none for txt


def read_rows(path: str, format_: str, column: str, advance: Advance | None = None) -> Iterator[Row]:
    """All rows; blank lines of a txt are rows too (and bad ones), so that numbers are lines."""
    if path == STDIN:
        format_ = "txt" if format_ == "auto" else _checked(format_)
        if format_ == "parquet":
            raise ConfigError("parquet cannot be read from a pipe: name the file")
        yield from _read(sys.stdin.buffer, format_, column, "standard input")
        return
    number = 0
    for file in files_of(path):
        prefix = file.relative_to(path) if Path(path).is_dir() else file.name
        for row in _read_file(file, _resolve_format(file, format_), column, advance):
            number += 1
            yield replace(row, number=number, place=f"{prefix}:{row.number}")


def files_of(path: str) -> list[Path]:
    """The file, or the files of a folder that have one of the formats, in the order of their names."""
    root = Path(path)
    if not root.is_dir():
        return [root]
    files = sorted(file for file in root.rglob("*") if file.is_file() and file.suffix[1:].lower() in SUFFIXES)
    if not files:
        raise ConfigError(f"{path} has no files of the formats {', '.join(FORMATS)}")
    return files


def _resolve_format(file: Path, format_: str) -> str:
    if format_ != "auto":
        return _checked(format_)
    suffix = file.suffix[1:].lower()
    if suffix and suffix not in SUFFIXES:
        formats = "|".join(FORMATS)
        raise ConfigError(f"{file} has an ending that tells no format: name one with --input-format {formats}")
    return SUFFIXES.get(suffix, "txt")


def _checked(format_: str) -> str:
    if format_ not in FORMATS:
        raise ConfigError(f"--input-format {format_} is not known: use auto, {', '.join(FORMATS)}")
    return format_


def _read_file(path: Path, format_: str, column: str, advance: Advance | None) -> Iterator[Row]:
    try:
        with path.open("rb") as file:
            is_parquet = format_ == "parquet"
            rows = _read_parquet(file, column, path) if is_parquet else _read(file, format_, column, str(path))
            told = 0
            with closing(rows):  # before the file
                for row in rows:
                    if advance is not None and file.tell() > told:
                        advance(file.tell() - told)
                        told = file.tell()
                    yield row
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error


def _read(binary: BinaryIO, format_: str, column: str, name: str) -> Generator[Row, None, None]:
    if format_ == "csv":
        yield from _read_csv(binary, column, name)
        return
    for number, data in enumerate(binary, start=1):
        try:
            line = data.decode(ENCODING if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            yield Row(number, problem=f"is not UTF-8 (at its byte {error.start})", place=str(number))
            continue
        yield Row(number, line, place=str(number)) if format_ == "txt" else _read_json(number, line, column)


def _read_json(number: int, line: str, column: str) -> Row:
    place = str(number)
    if not line.strip():
        return Row(number, problem="is empty", place=place)
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        return Row(number, problem=f"is not JSON: {error}", place=place)
    return _row_of(number, value if isinstance(value, dict) else {column: value}, column)


def _row_of(number: int, values: Mapping[str, Any], column: str) -> Row:
    place = str(number)
    if column not in values:
        names = ", ".join(map(str, values))
        return Row(
            number, problem=f"has no key {column!r} (--column or --text); it has: {names}", place=place, values=values
        )
    text = values[column]
    if not isinstance(text, str):
        return Row(number, problem=f"is of type {type(text).__name__}, not a text", place=place, values=values)
    return Row(number, text, place=place, values=values)


def _read_csv(binary: BinaryIO, column: str, name: str) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_CELL)
    file = io.TextIOWrapper(binary, ENCODING, newline="")
    reader = csv.reader(file, strict=True)
    try:
        names = next(reader, [])
        if column not in names:
            raise ConfigError(_no_column("csv", column, names))
        for number, cells in enumerate(reader, start=1):
            values = dict(zip(names, cells, strict=False))
            if column in values:
                yield Row(number, values[column], place=str(number), values=values)
            else:
                yield Row(number, problem=f"has no column {column!r}", place=str(number), values=values)
    except csv.Error as error:
        raise ConfigError(f"{name} is broken at line {reader.line_num} ({error}): mend its quotes") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is not UTF-8 (after line {reader.line_num}): convert it first") from error
    finally:
        file.detach()


def _read_parquet(file: BinaryIO, column: str, path: Path) -> Generator[Row, None, None]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ConfigError("parquet needs pyarrow: pip install 'inlay[parquet]'") from error
    try:
        table = parquet.ParquetFile(file)
        if column not in table.schema_arrow.names:
            raise ConfigError(_no_column("parquet", column, table.schema_arrow.names))
        number = 0
        for batch in table.iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield _row_of(number, values, column)
    except ArrowException as error:
        raise ConfigError(f"{path} is not a parquet file that can be read: {error}") from error


def _no_column(kind: str, column: str, names: list[str]) -> str:
    columns = ", ".join(names) or "none"
    return f"the {kind} has no column {column!r}; its columns are: {columns}. Name one with --column or --text"
