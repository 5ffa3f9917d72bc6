"""Reads texts from txt, jsonl and csv, a row at a time, and numbers them as a person counts them.

In: a path or `-`. Out: rows with their number (from 1) and a text, or the reason why there is none.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import msgspec

from inlay.errors import ConfigError

FORMATS = ("txt", "jsonl", "csv")
STDIN = "-"
ENCODING = "utf-8-sig"  # with or without the mark that Excel puts first
LONGEST_CELL = 1 << 30


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `text`, or the `problem` that it has."""

    number: int
    text: str = ""
    problem: str | None = None


def read_rows(path: str, format_: str, column: str) -> Iterator[Row]:
    """All rows of a file; blank lines of a txt are rows too (and bad ones), so that numbers are lines."""
    format_ = _resolve_format(path, format_)
    try:
        if path == STDIN:
            yield from _read(io.TextIOWrapper(sys.stdin.buffer, ENCODING, newline=""), format_, column)
            return
        with Path(path).open(encoding=ENCODING, newline="") as file:
            yield from _read(file, format_, column)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (at byte {error.start}): convert it first") from error


def _resolve_format(path: str, format_: str) -> str:
    if format_ == "auto":
        suffix = Path(path).suffix.removeprefix(".")
        return {"ndjson": "jsonl"}.get(suffix, suffix if suffix in FORMATS else "txt")
    if format_ not in FORMATS:
        raise ConfigError(f"--input-format {format_} is not known: use auto, {', '.join(FORMATS)}")
    return format_


def _read(file: TextIO, format_: str, column: str) -> Iterator[Row]:
    if format_ == "csv":
        yield from _read_csv(file, column)
        return
    for number, line in enumerate(file, start=1):
        text = line.rstrip("\r\n")
        yield Row(number, text) if format_ == "txt" else _read_json(number, text, column)


def _read_json(number: int, line: str, column: str) -> Row:
    if not line.strip():
        return Row(number, problem="is empty")
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        return Row(number, problem=f"is not JSON: {error}")
    text = value.get(column) if isinstance(value, dict) else value
    if isinstance(text, str):
        return Row(number, text)
    if isinstance(value, dict) and column not in value:
        return Row(number, problem=f"has no key {column!r} (--column); it has: {', '.join(map(str, value))}")
    return Row(number, problem=f"is of type {type(text).__name__}, not a text")


def _read_csv(file: TextIO, column: str) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(file, strict=True)
    names = next(reader, [])
    if column not in names:
        columns = ", ".join(names) or "none"
        raise ConfigError(f"the csv has no column {column!r}; its columns are: {columns}. Name one with --column")
    place = names.index(column)
    try:
        for number, cells in enumerate(reader, start=1):
            is_there = place < len(cells)
            yield Row(number, cells[place]) if is_there else Row(number, problem=f"has no column {column!r}")
    except csv.Error as error:
        raise ConfigError(f"the csv is broken at line {reader.line_num} ({error}): mend its quotes") from error
