"""Packs sequences end to end. No padding: a batch costs what its different tokens cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from inlay.types import Deliver, IntArray, Priority, Work

NO_IDS: IntArray = np.empty(0, dtype=np.int64)


@dataclass(slots=True, eq=False)
class Sequence:
    """One piece of work in this engine, from its arrival to its answer."""

    work: Work
    deliver: Deliver
    arrived: float  # time.monotonic()
    priority: Priority
    ids: IntArray = field(default_factory=lambda: NO_IDS)  # [L]; filled by the intake
    types: IntArray | None = None  # [L], 0 and 1 for the segments of a pair; filled by the intake
    prefix_length: int = 0  # ids with which others of the request begin, too; filled by the intake
    is_truncated: bool = False  # filled by the intake
    is_cancelled: bool = False  # nobody waits for it any more
    queue_seconds: float = 0.0  # filled by the loop

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    @property
    def content(self) -> bytes:
        """What decides its outputs: the ids, of a pair which of them are whose, and the adapter."""
        ids = self.ids.tobytes() if self.types is None else self.ids.tobytes() + self.types.tobytes()
        return self.work.adapter.encode() + b"\0" + ids if self.work.adapter else ids


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences packed end to end, without padding."""

    sequences: list[Sequence]
    rows: list[int]  # the place in the batch of each sequence; those with equal content share one
    ids: IntArray  # [T]
    positions: IntArray  # [T], restarting at 0 with each sequence
    offsets: IntArray  # [B + 1], where each place begins; the last is T
    types: IntArray | None = None  # [T], of the segments of pairs; None: all 0
    adapters: list[str] | None = None  # of each place; None: no place has one

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    @property
    def kinds(self) -> list[str]:
        """The kinds of output that any of its sequences wants."""
        return list(dict.fromkeys(kind for sequence in self.sequences for kind in sequence.work.outputs))


def pack(sequences: list[Sequence]) -> Batch:
    """One `Batch`, by adapter and then by length: what is computed alike is side by side, and equal ids run once."""
    ordered = sorted(sequences, key=lambda sequence: (sequence.work.adapter, sequence.num_tokens))
    row_of: dict[bytes, int] = {}
    rows = [row_of.setdefault(sequence.content, len(row_of)) for sequence in ordered]
    unique = ordered
    if len(row_of) < len(ordered):
        unique = list(dict(zip(rows, ordered, strict=True)).values())
    ids = np.concatenate([sequence.ids for sequence in unique])
    lengths = [len(sequence.ids) for sequence in unique]
    offsets = np.array([0, *accumulate(lengths)], dtype=np.int64)
    pairs = {row: sequence.types for row, sequence in zip(rows, ordered, strict=True) if sequence.types is not None}
    return Batch(
        sequences=ordered,
        rows=rows,
        ids=ids,
        positions=np.arange(len(ids), dtype=np.int64) - np.repeat(offsets[:-1], lengths),
        offsets=offsets,
        types=_types_of(pairs, lengths) if pairs else None,
        adapters=[sequence.work.adapter for sequence in unique] if ordered[-1].work.adapter else None,
    )


def _types_of(pairs: dict[int, IntArray], lengths: list[int]) -> IntArray:
    """Of all places of a batch; those that are no pairs have one segment."""
    return np.concatenate([pairs.get(row, np.zeros(length, dtype=np.int64)) for row, length in enumerate(lengths)])
