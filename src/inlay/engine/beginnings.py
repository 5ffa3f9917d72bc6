"""What token ids have in common with their neighbours: how long they begin alike, many at a time.

In: the packed ids of a batch. Out: lengths. Knows nothing of what is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inlay.types import IntArray


@dataclass(frozen=True, slots=True)
class Texts:
    """The ids of a batch, text by text."""

    ids: IntArray  # [T]
    starts: IntArray  # [B]
    lengths: IntArray  # [B]

    @classmethod
    def of(cls, ids: IntArray, offsets: IntArray) -> Texts:
        return cls(ids, offsets[:-1], np.diff(offsets))

    def first(self, place: int, most: int) -> IntArray:
        """The first ids of a text."""
        start = int(self.starts[place])
        return self.ids[start : start + min(most, int(self.lengths[place]))]

    def shared_lengths(self, prefix: IntArray, places: Sequence[int]) -> IntArray:
        """How many tokens of a prefix each of some texts begins with; each keeps at least one of its own."""
        columns = np.arange(len(prefix))
        rows = self.starts[places][:, None] + columns
        differ = self.ids[np.minimum(rows, len(self.ids) - 1)] != prefix
        differ |= columns >= self.lengths[places][:, None] - 1
        return np.where(differ.any(axis=1), differ.argmax(axis=1), len(prefix))


def shared_length(prefix: IntArray, ids: IntArray) -> int:
    """The same of one text."""
    most = min(len(prefix), len(ids) - 1)
    differ = np.flatnonzero(prefix[:most] != ids[:most])
    return int(differ[0]) if len(differ) else most
