"""Where a GPU keeps the keys and values of shared prefixes: one piece of memory, handed out in ranges of tokens.

It is made once, so that the attention kernel reads a prefix where it lies and captured launches find it in the same
place. Belongs to the device thread; what a range holds is its owner's affair.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Arena:
    """Room for the keys and values of so many tokens in every layer."""

    def __init__(self, layers: int, tokens: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        """`width` is that of all key heads."""
        self.tokens = tokens
        self._room = torch.empty(layers, 2, tokens, width, dtype=dtype, device=device)
        self._free: list[tuple[int, int]] = [(0, tokens)]  # [start, end), in order and never side by side

    def layer(self, number: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, each [tokens, width]."""
        k, v = self._room[number]
        return k, v

    def take(self, length: int) -> int | None:
        """The start of a range; None where no free one is as long."""
        for place, (start, end) in enumerate(self._free):
            if end - start >= length:
                self._free[place : place + 1] = [(start + length, end)] if end - start > length else []
                return start
        return None

    def give_back(self, start: int, length: int) -> None:
        """A range that was taken is free again."""
        joined: list[tuple[int, int]] = []
        for one in sorted([*self._free, (start, start + length)]):
            if joined and joined[-1][1] == one[0]:
                joined[-1] = (joined[-1][0], one[1])
            else:
                joined.append(one)
        self._free = joined
