"""Sequences that wait in one lane, in the order in which they would run: fair between requests.

In: sequences with their tags (see `engine.scheduler`). Out: the one in turn. What has gone leaves no hole: it is passed
over when its turn comes, and forgotten before there are many. Knows nothing of batches and budgets.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count

from inlay.engine.batch import Sequence

MOST_GONE = 256  # that a lane holds beside twice as many as wait


@dataclass(slots=True, eq=False)
class Waiting:
    """A sequence in a lane."""

    tag: float
    number: int  # first come first served among equals
    sequence: Sequence
    lane: Lane
    turns: int = 0  # between pieces, that it was first and too large for
    is_gone: bool = False  # taken, dropped, or in a lane again with another tag

    @property
    def entry(self) -> _Entry:
        return self.tag, self.number, self


_Entry = tuple[float, int, Waiting]  # of the heap: a tuple is compared without a call; no two have a tag and a number


class Lane:
    """A heap of those that wait by tag."""

    def __init__(self) -> None:
        self._heap: list[_Entry] = []
        self._num_waiting = 0
        self._numbers = count()

    def __len__(self) -> int:
        return self._num_waiting

    def push(self, sequence: Sequence, tag: float) -> Waiting:
        """Let a sequence wait behind those with smaller tags."""
        waiting = Waiting(tag, next(self._numbers), sequence, self)
        heapq.heappush(self._heap, waiting.entry)
        self._num_waiting += 1
        return waiting

    def head(self) -> Waiting | None:
        """The next in turn."""
        while self._heap and self._heap[0][-1].is_gone:
            heapq.heappop(self._heap)
        return self._heap[0][-1] if self._heap else None

    def pass_over(self) -> None:
        """Not now: the head is out of the order until it is put back."""
        heapq.heappop(self._heap)

    def put_back(self, waiting: Waiting) -> None:
        """In the order again, where it was."""
        heapq.heappush(self._heap, waiting.entry)

    def remove(self, waiting: Waiting) -> None:
        """It waits no more."""
        waiting.is_gone = True
        self._num_waiting -= 1
        if len(self._heap) > 2 * self._num_waiting + MOST_GONE:
            self._heap = [entry for entry in self._heap if not entry[-1].is_gone]
            heapq.heapify(self._heap)
