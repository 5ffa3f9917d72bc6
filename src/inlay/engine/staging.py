"""Brings a batch to a GPU in one copy: ids, positions, offsets and all else that says where what lies.

In: the arrays of a batch. Out: tensors on the device, which are valid until the next batch is staged. All lie in one
buffer: it is filled in pinned memory and copied behind the work that is queued, so the host waits for nothing. Small
batches are filled up to one of few shapes, in the same places each time, so that their launches can be captured once
(`engine.graphs`). What fills them up belongs to no sequence.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cache
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
NOTHING: IntArray = np.empty(0, dtype=np.int64)
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
    starts: slice
    lengths: slice
    tiles: slice

    @classmethod
    def of(cls, shape: Shape, num_tiles: int, *, has_types: bool) -> Fields:
        tokens, sequences = shape.tokens, shape.sequences
        lengths = (tokens, tokens, tokens * has_types, sequences + 1, *[sequences] * 3, 2 * num_tiles)
        ends = np.cumsum([0, *lengths]).tolist()
        return cls(*(slice(start, end) for start, end in pairwise(ends)))


@dataclass(frozen=True, slots=True)
class Views:
    """The same on the device."""

    ids: Tensor  # [tokens] int32, like all
    positions: Tensor  # [tokens]
    types: Tensor | None  # [tokens]
    cu_seqlens: Tensor  # [sequences + 1]
    rows: Tensor  # [sequences], one of each sequence
    starts: Tensor  # [sequences], of what is kept and comes before; 0 where nothing does
    lengths: Tensor  # [sequences], of it
    tiles: Tensor  # [N, 2]

    @classmethod
    def of(cls, buffer: Tensor, fields: Fields) -> Views:
        return cls(
            ids=buffer[fields.ids],
            positions=buffer[fields.positions],
            types=buffer[fields.types] if fields.types.stop > fields.types.start else None,
            cu_seqlens=buffer[fields.cu_seqlens],
            rows=buffer[fields.rows],
            starts=buffer[fields.starts],
            lengths=buffer[fields.lengths],
            tiles=buffer[fields.tiles].view(-1, 2),
        )


@dataclass(frozen=True, slots=True)
class Staged:
    """A batch on the device; with rows and sequences behind its own where it was filled up."""

    views: Views
    layout: Layout


@dataclass(frozen=True, slots=True)
class Given:
    """A batch on the host."""

    ids: IntArray  # [T]
    positions: IntArray  # [T]
    types: IntArray | None  # [T]
    offsets: IntArray  # [B + 1]
    rows: IntArray  # one of each sequence that has an answer
    starts: IntArray | None = None  # [B], of what is kept; None: nothing is
    lengths: IntArray | None = None


class Slot:
    """Pinned memory for one batch, and when it may be written again."""

    def __init__(self, device: torch.device, capacity: int) -> None:
        is_cuda = device.type == "cuda"
        self.host = torch.empty(capacity, dtype=torch.int32, pin_memory=is_cuda)
        self.array: Int32Array = self.host.numpy()
        self.copied = torch.cuda.Event() if is_cuda else None  # type: ignore[no-untyped-call]


class Staging:
    """The way to one GPU. Belongs to the device thread."""

    def __init__(self, device: torch.device, *, fills_up: bool = True) -> None:
        self._device = device
        self._fills_up = fills_up  # small batches; else each has its own size
        self._buffer = torch.empty(CAPACITY, dtype=torch.int32, device=device)
        self._slots = [Slot(device, CAPACITY) for _ in range(SLOTS)]
        self._next = 0
        self._views: dict[tuple[Shape, bool], tuple[Fields, Views]] = {}  # of filled up shapes: always the same

    def stage(self, given: Given) -> Staged:
        """The batch on the device, until the next one is staged; its copy may still be on the way."""
        offsets, has_types = given.offsets, given.types is not None
        exact, tiles = Shape(len(given.ids), len(offsets) - 1), tiles_of(offsets)
        shape = shape_for(exact.tokens, exact.sequences) if self._fills_up else None
        if shape is None:
            fields = Fields.of(exact, len(tiles), has_types=has_types)
            buffer, slot = self._room_for(fields.tiles.stop)
            views = Views.of(buffer, fields)
        else:
            fields, views = self._filled(shape, has_types=has_types)
            buffer, slot = self._room_for(fields.tiles.stop)
        _fill(slot.array, fields, given, tiles)
        buffer[: fields.tiles.stop].copy_(slot.host[: fields.tiles.stop], non_blocking=True)
        if slot.copied is not None:
            slot.copied.record()
        longest = int((offsets[1:] - offsets[:-1]).max())
        layout = Layout(offsets.tolist(), torch.from_numpy(offsets), views.cu_seqlens, longest, views.tiles)
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
        found = self._views.get((shape, has_types))
        if found is None:
            fields = Fields.of(shape, shape.tokens // TILE + shape.sequences, has_types=has_types)
            found = self._views[shape, has_types] = fields, Views.of(self._buffer, fields)
        return found


def shapes() -> list[Shape]:
    """All that batches are filled up to, the largest first."""
    return [_shape_of(tokens) for tokens in reversed(TOKENS)]


def shape_for(num_tokens: int, num_sequences: int) -> Shape | None:
    """What a batch is filled up to; None where that would cost more than it saves."""
    most = max(MOST_FILLED * num_tokens, ALWAYS_FILLED)
    for tokens in TOKENS[bisect_left(TOKENS, num_tokens) :]:
        if tokens > most:
            return None
        if num_sequences <= _shape_of(tokens).sequences:
            return _shape_of(tokens)
    return None


@cache
def _shape_of(tokens: int) -> Shape:
    return Shape(tokens, min(max(tokens // TOKENS_OF_A_SEQUENCE, FEWEST_SEQUENCES), MOST_SEQUENCES))


def _fill(array: Int32Array, fields: Fields, given: Given, tiles: Int32Array) -> None:
    """Behind what is given: ids and positions 0, sequences of no rows, the last row, and no tiles."""
    _put(array[fields.ids], given.ids, 0)
    _put(array[fields.positions], given.positions, 0)
    if given.types is not None:
        _put(array[fields.types], given.types, 0)
    _put(array[fields.cu_seqlens], given.offsets, int(given.offsets[-1]))
    _put(array[fields.rows], given.rows, fields.ids.stop - 1)
    _put(array[fields.starts], NOTHING if given.starts is None else given.starts, 0)
    _put(array[fields.lengths], NOTHING if given.lengths is None else given.lengths, 0)
    _put(array[fields.tiles], tiles.ravel(), -1)


def _put(target: Int32Array, values: npt.NDArray[np.signedinteger], rest: int) -> None:
    target[: len(values)] = values
    target[len(values) :] = rest
