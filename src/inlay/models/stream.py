"""The residual stream of a batch: hidden states in float32, and what the last part has to add to them.

What a part adds waits for the norm that comes next, which adds it in the pass in which it normalises; a product may be
computed only then. Behind the last attention there may be fewer rows: those that are wanted in the end.
"""

from __future__ import annotations

from torch import Tensor

from inlay.ops.rows import Rows

Wanted = Tensor | slice  # rows of a batch: [B], or one row of its only sequence


class Stream:
    """Hidden states [T, width], which norms change in place."""

    def __init__(self, hidden: Tensor, wanted: Wanted | None = None, waiting: Rows | None = None) -> None:
        self.hidden = hidden
        self._wanted = wanted  # rows that are left once a part adds to so many; None: all stay
        self._waiting = waiting

    def add(self, rows: Rows) -> None:
        """What a part adds, to all rows or (behind the last attention) to the wanted ones; any number of times."""
        if self._waiting is not None:
            self.hidden += self._waiting.full()
        if self._wanted is not None and rows.shape[0] != len(self.hidden):
            self.hidden = self.hidden[self._wanted]
        self._waiting = rows

    def take(self) -> Rows | None:
        """What waits, for whoever adds it now."""
        waiting, self._waiting = self._waiting, None
        return waiting
