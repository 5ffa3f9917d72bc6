"""Filters: which rows of a corpus have the values that a search asks for.

In: `{"lang": "de", "year": [2024, 2025]}`: every field must have the value, or one of the values. Out: a mask
over all rows. A field's column is read from the records when it is first asked for, and kept as small codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any

import numpy as np

from inlay.corpus.search import Mask
from inlay.corpus.store import Corpus
from inlay.errors import InvalidInput
from inlay.types import IntArray

MISSING = 0  # the code of rows that have no such field
Scalar = str | int | float | bool | None
Key = tuple[bool, Scalar]  # a truth value is not a number here


class Filters:
    """The columns of one corpus."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._columns: dict[str, tuple[IntArray, dict[Key, int]]] = {}
        self._lock = Lock()

    def mask(self, wanted: Mapping[str, Any]) -> Mask:
        """True for the rows that have it all; `InvalidInput` for a field that no row has."""
        mask = np.ones(self._corpus.num_rows, dtype=np.bool_)
        for field, value in wanted.items():
            codes, known = self._column(field)
            values = value if isinstance(value, list) else [value]
            if not all(_is_scalar(one) for one in values):
                raise InvalidInput(f"filter.{field} must be a value or a list of values", param=f"filter.{field}")
            sought = [known[_key_of(one)] for one in values if _key_of(one) in known]
            mask &= np.isin(codes, sought)
        return mask

    def _column(self, field: str) -> tuple[IntArray, dict[Key, int]]:
        with self._lock:
            if field not in self._columns:
                self._columns[field] = self._read(field)
            return self._columns[field]

    def _read(self, field: str) -> tuple[IntArray, dict[Key, int]]:
        codes = np.full(self._corpus.num_rows, MISSING, dtype=np.int64)
        known: dict[Key, int] = {}
        fields: set[str] = set()
        for row, record in enumerate(self._corpus.records()):
            fields |= record.keys()
            if field in record and _is_scalar(record[field]):
                codes[row] = known.setdefault(_key_of(record[field]), len(known) + 1)
        if field not in fields:
            names = ", ".join(sorted(fields))
            raise InvalidInput(
                f"no row has a field {field!r}; the fields are: {names} (inlay precompute --keep keeps columns)",
                param=f"filter.{field}",
            )
        return codes, known


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _key_of(value: Scalar) -> Key:
    return isinstance(value, bool), value
