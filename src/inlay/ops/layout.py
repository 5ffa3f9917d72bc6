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


@dataclass(frozen=True)
class Layout:
    """Sequence b holds the rows offsets[b] to offsets[b + 1] of every packed tensor."""

    offsets: list[int]  # [B + 1], on the host
    host: Tensor  # the same, [B + 1] int64
    cu_seqlens: Tensor  # [B + 1] int32, on the device
    max_length: int

    @classmethod
    def of(cls, offsets: IntArray, device: torch.device) -> Layout:
        listed: list[int] = offsets.tolist()
        longest = max(end - start for start, end in pairwise(listed))
        return cls(listed, torch.from_numpy(offsets), _on_device(offsets.astype(np.int32), device), longest)

    @classmethod
    def of_one_row_each(cls, count: int, device: torch.device) -> Layout:
        """So many sequences of one row; made on the device, which is not waited for."""
        cu_seqlens = torch.arange(count + 1, dtype=torch.int32, device=device)
        return cls(list(range(count + 1)), torch.arange(count + 1), cu_seqlens, 1)

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Neighbours of equal length, as (first row, number of sequences, length)."""
        first = 0
        for b in range(1, len(self.offsets)):
            length = self.offsets[first + 1] - self.offsets[first]
            is_last = b == len(self.offsets) - 1
            if is_last or self.offsets[b + 1] - self.offsets[b] != length:
                yield self.offsets[first], b - first, length
                first = b


def _on_device(array: npt.NDArray[np.int32], device: torch.device) -> Tensor:
    """A blocking copy would wait for all that the device still has to do."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
