"""Filters: which rows of a corpus have the values that a search asks for.

In: `{"lang": "de", "year": [2024, 2025]}`: every field must have the value, or one of the values. Out: a mask
over all rows. A field's column is read from the records when it is first asked for, and kept as small codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from inlay.corpus.corpus import Corpus
from inlay.corpus.search.exact import Mask
from inlay.errors import InvalidInput, shorten

TEXT = "text"
MISSING = 0  # the code of rows that have no such field
Codes = npt.NDArray[np.int32]
Scalar = str | int | float | bool | None
Key = tuple[bool, Scalar]  # a truth value is not a number here


class Filters:
    """The columns of one corpus."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._columns: dict[str, tuple[Codes, dict[Key, int]]] = {}
        self._fields: set[str] = set()  # of all records; empty until they have been read
        self._lock = Lock()

    def mask(self, wanted: Mapping[str, Any]) -> Mask:
        """True for the rows that have it all; `InvalidInput` for a field that no row has."""
        mask = np.ones(self._corpus.num_rows, dtype=np.bool_)
        for field, value in wanted.items():
            codes, known = self._column(field)
            values = value if isinstance(value, list) else [value]
            if not all(_is_scalar(one) for one in values):
                raise InvalidInput(f"filter.{shorten(field)} must be a value or a list of values", param="filter")
            sought = [known[_key_of(one)] for one in values if _key_of(one) in known]
            mask &= np.isin(codes, sought)
        return mask

    def _column(self, field: str) -> tuple[Codes, dict[Key, int]]:
        with self._lock:
            self._check(field)
            if field not in self._columns:
                self._columns[field] = self._read(field)
                self._check(field)
            return self._columns[field]

    def _check(self, field: str) -> None:
        """Refuse what no row has (once the records have been read), and the texts, which would fill the memory."""
        if field == TEXT or (self._fields and field not in self._fields):
            names = ", ".join(sorted(self._fields - {TEXT})) or "those that were kept"
            raise InvalidInput(
                f"filter has no field {shorten(field)!r}; the fields are: {names} (inlay precompute --keep keeps more)",
                param="filter",
            )

    def _read(self, field: str) -> tuple[Codes, dict[Key, int]]:
        codes = np.full(self._corpus.num_rows, MISSING, dtype=np.int32)
        known: dict[Key, int] = {}
        for row, record in enumerate(self._corpus.records()):
            if record is None:
                continue
            self._fields |= record.keys()
            if field in record and _is_scalar(record[field]):
                codes[row] = known.setdefault(_key_of(record[field]), len(known) + 1)
        return codes, known


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _key_of(value: Scalar) -> Key:
    return isinstance(value, bool), value
