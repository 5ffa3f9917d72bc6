"""A row of a corpus as a vector database keeps it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Point(NamedTuple):
    """A row as a database keeps it."""

    row: int
    vector: list[float]  # of length one
    record: dict[str, Any]
