"""Brings a batch to a GPU in one copy: ids, positions, offsets and all else that says where what lies.

In: the arrays of a batch. Out: tensors on the device, which are valid until the next batch is staged. All lie in one
buffer: it is filled in pinned memory and copied behind the work that is queued, so the host waits for nothing. Small
batches are filled up to one of few shapes, in the same places each time, so that their launches can be captured once
(`engine.graphs`). What fills them up belongs to no sequence.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inlay.ops.layout import TILE, Layout, tiles_of
from inlay.types import IntArray

Int32Array = npt.NDArray[np.int32]
TOKENS = (
    *(16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768),
    *range(1024, 2048, 256),
    *range(2048, 4096, 512),
    *range(4096, 8192, 1024),
    *range(8192, 16_385, 2048),
)
FEWEST_SEQUENCES, MOST_SEQUENCES = 8, 512
TOKENS_OF_A_SEQUENCE = 4  # a shape has room for sequences of so many on average
MOST_FILLED = 1.26  # times the tokens of a batch
ALWAYS_FILLED = 1024  # up to so many tokens a replay is faster than launches, whatever it computes in vain
CAPACITY = 1 << 18  # numbers; of what is longer the buffers are made for it alone
SLOTS = 3  # batches that may be on their way: one runs, one waits, one is filled


@dataclass(frozen=True, slots=True)
class Shape:
    """What a batch is filled up to."""

    tokens: int
    sequences: int


@dataclass(frozen=True, slots=True)
class Fields:
    """The parts of the buffer, one behind the other, as [start, end) of numbers."""

    ids: slice
    positions: slice
    types: slice
    cu_seqlens: slice
    rows: slice
    tiles: slice

    @classmethod
    def of(cls, shape: Shape, num_tiles: int, *, has_types: bool) -> Fields:
        lengths = (shape.tokens, shape.tokens, shape.tokens * has_types, shape.sequences + 1, shape.sequences)
        ends = np.cumsum([0, *lengths, 2 * num_tiles]).tolist()
        return cls(*(slice(start, end) for start, end in pairwise(ends)))


@dataclass(frozen=True, slots=True)
class Views:
    """The same on the device."""

    ids: Tensor  # [tokens] int32, like all
    positions: Tensor  # [tokens]
    types: Tensor | None  # [tokens]
    cu_seqlens: Tensor  # [sequences + 1]
    rows: Tensor  # [sequences], one of each sequence
    tiles: Tensor  # [N, 2]

    @classmethod
    def of(cls, buffer: Tensor, fields: Fields) -> Views:
        types = buffer[fields.types] if fields.types.stop > fields.types.start else None
        parts = (buffer[fields.ids], buffer[fields.positions], types, buffer[fields.cu_seqlens], buffer[fields.rows])
        return cls(*parts, buffer[fields.tiles].view(-1, 2))


@dataclass(frozen=True, slots=True)
class Staged:
    """A batch on the device; with rows and sequences behind its own where it was filled up."""

    views: Views
    layout: Layout


class Slot:
    """Pinned memory for one batch, and when it may be written again."""

    def __init__(self, device: torch.device, capacity: int) -> None:
        is_cuda = device.type == "cuda"
        self.host = torch.empty(capacity, dtype=torch.int32, pin_memory=is_cuda)
        self.array: Int32Array = self.host.numpy()
        self.copied = torch.cuda.Event() if is_cuda else None  # type: ignore[no-untyped-call]


class Staging:
    """The way to one GPU. Belongs to the device thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffer = torch.empty(CAPACITY, dtype=torch.int32, device=device)
        self._slots = [Slot(device, CAPACITY) for _ in range(SLOTS)]
        self._next = 0
        self._views: dict[tuple[Shape, bool], tuple[Fields, Views]] = {}  # of filled up shapes: always the same

    def stage(
        self, ids: IntArray, positions: IntArray, types: IntArray | None, offsets: IntArray, rows: IntArray | None
    ) -> Staged:
        """ids, positions and types [T]; offsets [B + 1]; rows [B], one of each sequence."""
        shape = shape_for(len(ids), len(offsets) - 1)
        tiles = tiles_of(offsets)
        if shape is None:
            fields = Fields.of(Shape(len(ids), len(offsets) - 1), len(tiles), has_types=types is not None)
            buffer, slot = self._room_for(fields.tiles.stop)
            views = Views.of(buffer, fields)
        else:
            fields, views = self._filled(shape, has_types=types is not None)
            buffer, slot = self._room_for(fields.tiles.stop)
        _fill(slot.array, fields, (ids, positions, types, offsets, rows, tiles))
        buffer[: fields.tiles.stop].copy_(slot.host[: fields.tiles.stop], non_blocking=True)
        if slot.copied is not None:
            slot.copied.record()
        lengths = np.diff(offsets)
        layout = Layout(offsets.tolist(), torch.from_numpy(offsets), views.cu_seqlens, int(lengths.max()), views.tiles)
        return Staged(views, layout)

    def _room_for(self, length: int) -> tuple[Tensor, Slot]:
        if length > CAPACITY:
            return torch.empty(length, dtype=torch.int32, device=self._device), Slot(self._device, length)
        slot = self._slots[self._next]
        self._next = (self._next + 1) % SLOTS
        if slot.copied is not None:
            slot.copied.synchronize()
        return self._buffer, slot

    def _filled(self, shape: Shape, *, has_types: bool) -> tuple[Fields, Views]:
        key = shape, has_types
        if key not in self._views:
            fields = Fields.of(shape, shape.tokens // TILE + shape.sequences, has_types=has_types)
            self._views[key] = fields, Views.of(self._buffer, fields)
        return self._views[key]


def shapes() -> list[Shape]:
    """All that batches are filled up to, the largest first."""
    return [_shape_of(tokens) for tokens in reversed(TOKENS)]


def shape_for(num_tokens: int, num_sequences: int) -> Shape | None:
    """What a batch is filled up to; None where that would cost more than it saves."""
    for tokens in TOKENS[bisect_left(TOKENS, num_tokens) :]:
        if tokens > max(MOST_FILLED * num_tokens, ALWAYS_FILLED):
            return None
        shape = _shape_of(tokens)
        if num_sequences <= shape.sequences:
            return shape
    return None


def _shape_of(tokens: int) -> Shape:
    return Shape(tokens, min(max(tokens // TOKENS_OF_A_SEQUENCE, FEWEST_SEQUENCES), MOST_SEQUENCES))


def _fill(
    array: Int32Array,
    fields: Fields,
    given: tuple[IntArray, IntArray, IntArray | None, IntArray, IntArray | None, Int32Array],
) -> None:
    """Behind what is given: ids and positions 0, sequences of no rows, the last row, and no tiles."""
    ids, positions, types, offsets, rows, tiles = given
    last_row = fields.ids.stop - 1
    _put(array[fields.ids], ids, 0)
    _put(array[fields.positions], positions, 0)
    if types is not None:
        _put(array[fields.types], types, 0)
    _put(array[fields.cu_seqlens], offsets, int(offsets[-1]))
    _put(array[fields.rows], offsets[:-1] if rows is None else rows, last_row)
    _put(array[fields.tiles], tiles.ravel(), -1)


def _put(target: Int32Array, values: npt.NDArray[np.signedinteger], rest: int) -> None:
    target[: len(values)] = values
    target[len(values) :] = rest
