"""Keys and values that come before a batch's own rows: of a prefix that sequences share, or of a long input's start.

In: the keys and values of the rows that run, layer by layer. Out: all that each sequence's queries see, and where it
lies. A row's keys and values depend on the tokens up to it alone, so what is kept is what would be computed again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from inlay.ops.layout import KeptRanges, Layout

LayerKeyValues = tuple[Tensor, Tensor]  # each [tokens, kv_heads, head_dim]


class Past(Protocol):
    """What the rows of a batch see beside each other."""

    @property
    def is_fixed(self) -> bool:
        """Are its launches the same for any plan whose tensors lie in the same places?"""
        ...

    def join(self, layer: int, k: Tensor, v: Tensor, *, only_wanted: bool) -> tuple[Tensor, Tensor, Layout]:
        """All keys and values, sequence by sequence; with `only_wanted`, of those that have a wanted row."""
        ...


class EarlierPieces:
    """Of one long sequence, what ran before in the layer that runs; holds one layer at a time."""

    is_fixed = False

    def __init__(self, length: int) -> None:
        self._length = length
        self._layer = -1
        self._filled = 0

    def join(self, layer: int, k: Tensor, v: Tensor, *, only_wanted: bool) -> tuple[Tensor, Tensor, Layout]:
        if layer != self._layer:
            self._layer, self._filled = layer, 0
            self._k, self._v = (x.new_empty((self._length, *x.shape[1:])) for x in (k, v))
        end = self._filled + len(k)
        self._k[self._filled : end] = k
        self._v[self._filled : end] = v
        self._filled = end
        return self._k[:end], self._v[:end], Layout.of(np.array([0, end], dtype=np.int64), k.device)


@dataclass(frozen=True, slots=True)
class Gather:
    """Which rows make the keys of each sequence: of the kept prefixes one after the other, then of the batch."""

    rows: Tensor  # [keys]
    layout: Layout


@dataclass(frozen=True, slots=True)
class SharedPrefixes:
    """Prefixes that several sequences begin with: kept ones, and new ones that run as sequences of this batch."""

    kept: list[list[LayerKeyValues]]  # prefix by prefix, layer by layer
    every: Gather  # for all sequences, the new prefixes among them
    wanted: Gather  # for those that have an answer
    new: list[tuple[slice, list[LayerKeyValues]]]  # rows of each new prefix, and where its layers are kept

    @property
    def is_fixed(self) -> bool:
        return False

    def join(self, layer: int, k: Tensor, v: Tensor, *, only_wanted: bool) -> tuple[Tensor, Tensor, Layout]:
        for rows, layers in self.new:
            layers.append((k[rows].clone(), v[rows].clone()))
        gather = self.wanted if only_wanted else self.every
        all_k = torch.cat([*(layers[layer][0] for layers in self.kept), k])
        all_v = torch.cat([*(layers[layer][1] for layers in self.kept), v])
        return all_k[gather.rows], all_v[gather.rows], gather.layout


class LayerRoom(Protocol):
    """Memory for kept keys and values of every layer."""

    def layer(self, number: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, each [tokens, kv_heads · head_dim]."""
        ...


@dataclass(frozen=True, slots=True)
class NewRange:
    """Rows of a batch whose keys and values are kept from now on, from a token of the room on."""

    rows: slice
    start: int


@dataclass(frozen=True, slots=True)
class KeptRooms:
    """Prefixes that lie in one room, which the attention kernel reads where they lie; nothing is gathered."""

    room: LayerRoom
    starts: Tensor  # [segments] int32, on the device
    lengths: Tensor  # [segments], 0 where nothing comes before
    layout: Layout  # of all segments
    answered: slice  # the segments that have an answer; new prefixes stand before them
    new: list[NewRange]

    @property
    def is_fixed(self) -> bool:
        return not self.new

    def join(self, layer: int, k: Tensor, v: Tensor, *, only_wanted: bool) -> tuple[Tensor, Tensor, Layout]:
        kept_k, kept_v = self.room.layer(layer)
        for new in self.new:
            target = slice(new.start, new.start + new.rows.stop - new.rows.start)
            kept_k[target].view(-1, *k.shape[1:]).copy_(k[new.rows])
            kept_v[target].view(-1, *v.shape[1:]).copy_(v[new.rows])
        segments = self.answered if only_wanted else slice(0, len(self.starts))
        kept = KeptRanges(kept_k, kept_v, self.starts[segments], self.lengths[segments])
        cu_seqlens = self.layout.cu_seqlens[segments.start : segments.stop + 1]
        return k, v, replace(self.layout, cu_seqlens=cu_seqlens, kept=kept)
