"""The lines of a batch's input: what each asks for, or why it asks for nothing.

In: a file in OpenAI's form, a JSON object a line: {"custom_id", "method", "url", "body"}. Out: lines with their bodies
as they are, slice by slice from any place; a body's meaning is its endpoint's to say. Memory is that of a slice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from msgspec import Raw, Struct

from inlay.jobs.batch import Problem

MOST_LINES = 1_000_000  # of a batch
MOST_PROBLEMS = 100  # that are told
LONGEST_ID = 512  # characters
DIGEST = 16  # bytes that stand for a line's id while twins are looked for
MARK = b"\xef\xbb\xbf"  # before the first line, by some editors


class Line(Struct, frozen=True):
    """One request. `body` is JSON."""

    number: int  # from 1
    custom_id: str
    body: bytes


class Slice(Struct, frozen=True):
    """Lines that follow each other, and where the next begins; a line at fault is its `Problem`."""

    lines: list[Line | Problem]
    next_offset: int
    next_number: int


class _Written(Struct):
    custom_id: str
    method: str
    url: str
    body: Raw


_DECODER = msgspec.json.Decoder(_Written)


def read_slice(path: Path, endpoint: str, offset: int, number: int, most_lines: int, most_bytes: int) -> Slice:
    """The lines after `offset`, the first of which has the number `number`; none at the end of the file.

    A line that is longer than `most_bytes` comes alone.
    """
    lines: list[Line | Problem] = []
    size = 0
    with path.open("rb") as file:
        file.seek(offset)
        while len(lines) < most_lines and size < most_bytes and (data := file.readline()):
            size += len(data)
            if data.strip():
                lines.append(parse_line(data, number, endpoint))
            number += 1
        return Slice(lines, file.tell(), number)


def parse_line(data: bytes, number: int, endpoint: str) -> Line | Problem:
    """A line, or what is wrong with it."""
    try:
        written = _DECODER.decode(data.removeprefix(MARK) if number == 1 else data)
    except msgspec.ValidationError as error:
        return Problem("invalid_line", f"{error}: a line has custom_id, method, url and body", number)
    except UnicodeDecodeError:
        return Problem("invalid_json_line", "is not UTF-8: save the file as UTF-8", number)
    except (msgspec.DecodeError, RecursionError) as error:
        return Problem("invalid_json_line", f"is not a JSON object: {error}", number)
    if not 0 < len(written.custom_id) <= LONGEST_ID:
        return Problem("invalid_custom_id", f"custom_id must have 1 to {LONGEST_ID} characters", number, "custom_id")
    if written.method != "POST":
        return Problem("invalid_method", f"method must be POST, not {written.method[:LONGEST_ID]!r}", number, "method")
    if written.url != endpoint:
        message = f"url must be {endpoint!r}, the batch's endpoint, not {written.url[:LONGEST_ID]!r}"
        return Problem("invalid_url", message, number, "url")
    return Line(number, written.custom_id, bytes(written.body))


def find_problems(path: Path, endpoint: str, longest_line: int) -> tuple[int, list[Problem]]:
    """How many lines there are, and what keeps the batch from being run."""
    total = 0
    problems: list[Problem] = []
    digests = bytearray()
    with path.open("rb") as file:
        for number, data in _lines_of(file, longest_line):
            total += 1
            found = _too_long(number, longest_line) if data is None else parse_line(data, number, endpoint)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                digests += _digest(found.custom_id)
            if len(problems) >= MOST_PROBLEMS:
                return total, problems
            if total > MOST_LINES:
                return total, [Problem("too_many_lines", f"a batch has at most {MOST_LINES} lines: split it")]
        if total == 0:
            return 0, [Problem("empty_file", "the file has no lines")]
        if not problems:
            file.seek(0)
            problems = _twins(file, digests, endpoint)
    return total, problems


def _lines_of(file: BinaryIO, longest: int) -> Iterator[tuple[int, bytes | None]]:
    """Lines that are not blank with their numbers; None in the place of one that is too long."""
    number = 0
    while data := file.readline(longest + 1):
        number += 1
        if len(data) > longest:
            while data and not data.endswith(b"\n"):
                data = file.readline(longest + 1)
            yield number, None
        elif data.strip():
            yield number, data


def _too_long(number: int, longest: int) -> Problem:
    return Problem("line_too_long", f"is longer than {longest} bytes: send fewer inputs in it", number)


def _twins(file: BinaryIO, digests: bytearray, endpoint: str) -> list[Problem]:
    """Lines whose `custom_id` another line before them has."""
    kinds, numbers = np.unique(np.frombuffer(digests, dtype=f"V{DIGEST}"), return_counts=True)
    if len(kinds) * DIGEST == len(digests):
        return []
    twins = {kind.tobytes() for kind in kinds[numbers > 1]}
    problems: list[Problem] = []
    first: dict[bytes, int] = {}
    for number, data in enumerate(file, start=1):
        line = parse_line(data, number, endpoint) if data.strip() else None
        if not isinstance(line, Line) or (digest := _digest(line.custom_id)) not in twins:
            continue
        if digest in first:
            message = f"custom_id is that of line {first[digest]}: each line has its own"
            problems.append(Problem("duplicate_custom_id", message, number, "custom_id"))
        if len(problems) >= MOST_PROBLEMS:
            break
        first.setdefault(digest, number)
    return problems


def _digest(custom_id: str) -> bytes:
    return hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=DIGEST).digest()
