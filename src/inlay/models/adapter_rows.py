"""Which rows of a batch run with which adapter; rows that are named nowhere run with the weights as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True, slots=True)
class Run:
    """Rows one behind the other with the same adapter."""

    adapter: str
    rows: slice


RunsOf = Callable[[int], tuple[Run, ...]]  # of products of so many rows


@dataclass(frozen=True, slots=True)
class AdapterRows:
    """Of a batch, whose products have all rows, or behind the last attention one of each sequence."""

    num_rows: int
    every: tuple[Run, ...]
    wanted: tuple[Run, ...]

    @classmethod
    def of(cls, adapters: Sequence[str], offsets: Sequence[int], num_rows: int, num_new: int = 0) -> AdapterRows | None:
        """By the adapter ('' for none) and the offsets of each segment, of which the first `num_new` have no answer.

        None where no segment has one. `num_rows` may count what a batch is filled up with, too.
        """
        if not any(adapters):
            return None
        answered = adapters[num_new:]
        return cls(num_rows, _runs(adapters, offsets), _runs(answered, range(len(answered) + 1)))

    def runs_of(self, count: int) -> tuple[Run, ...]:
        """The runs of a product of so many rows: if all sequences have one token, both are the same."""
        return self.every if count == self.num_rows else self.wanted


def all_rows(adapter: str) -> RunsOf:
    """Of passes over one sequence, whatever part of it they run."""
    return lambda count: (Run(adapter, slice(0, count)),)


def _runs(adapters: Sequence[str], offsets: Sequence[int]) -> tuple[Run, ...]:
    runs, place = [], 0
    for adapter, group in groupby(adapters):
        end = place + len(list(group))
        if adapter:
            runs.append(Run(adapter, slice(offsets[place], offsets[end])))
        place = end
    return tuple(runs)
