"""Where each sequence lies in a packed batch, in the forms that the attention kernels want.

In: the offsets of a `Batch`. Out: a `Layout` that forward passes hand through to `ops.attention` and
`engine.pooling`. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inlay.types import IntArray

TILE = 64  # rows of one sequence that one program of a GPU's attention has


@dataclass(frozen=True, slots=True)
class KeptRanges:
    """Of each sequence, kept keys and values of one layer that come before its own."""

    k: Tensor  # [tokens, kv_heads · head_dim], of all that is kept; and v in the same strides
    v: Tensor
    starts: Tensor  # [B] int32
    lengths: Tensor  # [B] int32, 0 where there are none


@dataclass(frozen=True)
class Layout:
    """Sequence b holds the rows offsets[b] to offsets[b + 1] of every packed tensor.

    On a GPU the device's tensors may go on behind the last sequence, with sequences of no rows.
    """

    offsets: list[int]  # [B + 1], on the host
    host: Tensor  # the same, [B + 1] int64
    cu_seqlens: Tensor  # [B + 1] int32, on the device
    max_length: int
    tiles: Tensor | None = None  # [N, 2] int32, on a GPU: a sequence (−1: none) and the first row of TILE of its rows
    has_one_row_each: bool = False
    kept: KeptRanges | None = None  # what comes before the rows, beside them

    @classmethod
    def of(cls, offsets: IntArray, device: torch.device) -> Layout:
        listed: list[int] = offsets.tolist()
        longest = max(end - start for start, end in pairwise(listed))
        cu_seqlens = _on_device(offsets.astype(np.int32), device)
        tiles = None if device.type == "cpu" else _on_device(tiles_of(offsets), device)
        return cls(listed, torch.from_numpy(offsets), cu_seqlens, longest, tiles)

    @classmethod
    def of_one_row_each(cls, count: int, device: torch.device) -> Layout:
        """So many sequences of one row; made on the device, which is not waited for."""
        cu_seqlens = torch.arange(count + 1, dtype=torch.int32, device=device)
        return cls(list(range(count + 1)), torch.arange(count + 1), cu_seqlens, 1, has_one_row_each=True)

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Neighbours of equal length, as (first row, number of sequences, length)."""
        first = 0
        for b in range(1, len(self.offsets)):
            length = self.offsets[first + 1] - self.offsets[first]
            is_last = b == len(self.offsets) - 1
            if is_last or self.offsets[b + 1] - self.offsets[b] != length:
                yield self.offsets[first], b - first, length
                first = b


def tiles_of(offsets: IntArray) -> npt.NDArray[np.int32]:
    """Every sequence cut into TILE rows: [N, 2], the sequence and the first of the rows."""
    lengths = offsets[1:] - offsets[:-1]
    if lengths.min() > 0 and lengths.max() <= TILE:  # one each
        tiles = np.zeros((len(lengths), 2), dtype=np.int32)
        tiles[:, 0] = np.arange(len(lengths))
        return tiles
    counts = -(-lengths // TILE)
    sequences = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    firsts = np.arange(len(sequences)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([sequences, (firsts * TILE).astype(np.int32)], axis=1)


def _on_device(array: npt.NDArray[np.int32], device: torch.device) -> Tensor:
    """A blocking copy would wait for all that the device still has to do."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
