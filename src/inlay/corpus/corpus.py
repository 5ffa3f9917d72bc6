"""A corpus open for reading: its parts behind one numbering of rows.

In: a directory. Out: rows by key, records by row, blocks of vectors. Immutable while open: rows that are
added later are seen when it is opened again. Knows nothing of models.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inlay.corpus.files.part import Array, Part, TextVector
from inlay.corpus.manifest import read_manifest


class Corpus:
    """Rows 0 to `num_rows` - 1 over all parts."""

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self.manifest = read_manifest(directory)
        self.recipe = self.manifest.recipe
        self.parts: list[Part] = []
        first_row = 0
        for info in self.manifest.parts:
            self.parts.append(Part(directory / info.name, info, first_row, self.recipe.others))
            first_row += info.num_rows
        self.num_rows = first_row

    @property
    def is_exact(self) -> bool:
        """Are the vectors what the model gave, bit for bit?"""
        return all(part.vectors.dtype.itemsize == 4 for part in self.parts)

    def find(self, key: bytes, flags: int = 0) -> tuple[int, TextVector | None] | None:
        """The row that has a key, and what it holds (None: it is broken); None where no row has it.

        With `fixed.NO_WAIT` as `flags`, `BlockingIOError` for what is not in memory.
        """
        for part in self.parts:
            found = part.find(key, flags)
            if found is not None:
                return part.first_row + found[0], found[1]
        return None

    def vector_of(self, row: int) -> TextVector | None:
        """A row as it is stored; None when its bytes are not what they were."""
        part = self.part_of(row)
        return part.vector_of(row - part.first_row)

    def others_of(self, row: int) -> dict[str, Array] | None:
        """What else is kept of a row, by kind of output; None when its bytes are not what they were."""
        part = self.part_of(row)
        return part.others_of(row - part.first_row)

    def record(self, row: int) -> dict[str, Any] | None:
        """Id, text and kept columns of a row; None when its bytes are not what they were."""
        part = self.part_of(row)
        return part.record(row - part.first_row)

    def records(self) -> Iterator[dict[str, Any] | None]:
        """All records, in the order of the rows."""
        for part in self.parts:
            yield from part.records()

    def part_of(self, row: int) -> Part:
        return self.parts[bisect_right(self.parts, row, key=lambda part: part.first_row) - 1]
