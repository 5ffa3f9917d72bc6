"""A long input on a GPU runs in ranges of its tokens, each through all layers, so that others wait for little.

In: ids of one sequence. Out: the hidden state of its last row. Keys and values of all layers are kept until the input
is through, and later ranges read them where they lie. At most one range waits behind the one that runs, so a batch that
is sent meanwhile waits for no more than two.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np
import torch
from torch import Tensor

from inlay.engine.arena import Arena
from inlay.engine.pieces import PieceSizer
from inlay.engine.transfer import to_device
from inlay.models.forward import Decoder
from inlay.models.past import KeptRooms, NewRange
from inlay.models.plan import Plan
from inlay.ops.layout import Layout

UNIT, FEWEST_TOKENS = 64, 512


class RangeDriver:
    """Runs long inputs of one model."""

    def __init__(self, model: Decoder, dtype: torch.dtype, longest_whole: int) -> None:
        self.longest_whole = longest_whole  # tokens; also those of a range with little before it
        self._even_length = PieceSizer.of(model).even_length
        self._model = model
        self._dtype = dtype

    def run(self, ids: Tensor, positions: Tensor) -> Generator[None, None, Tensor]:
        """The model's pass over one sequence, for its last row [1, width]; yields between ranges."""
        _, kv_heads, head_dim = self._model.heads
        room = Arena(len(self._model.layers), len(ids), kv_heads * head_dim, self._dtype, ids.device)
        before: torch.cuda.Event | None = None
        for start, end in self.spans(len(ids)):
            hidden: Tensor = self._model(self._plan(ids[start:end], positions[start:end], start, room))
            if end < len(ids):
                launched = _mark(ids.device)
                if before is not None:
                    before.synchronize()
                before = launched
                yield
        return hidden

    def spans(self, length: int) -> Iterator[tuple[int, int]]:
        """Ranges that take about as long: fewer tokens the more they look back at."""
        start = 0
        while start < length:
            tokens = int(self.longest_whole / (1 + start / self._even_length)) // UNIT * UNIT
            end = min(start + max(tokens, FEWEST_TOKENS), length)
            yield start, end
            start = end

    def _plan(self, ids: Tensor, positions: Tensor, start: int, room: Arena) -> Plan:
        """A range as a batch of its own, behind all that ran before."""
        count = len(ids)
        layout = Layout.of(np.array([0, count], dtype=np.int64), ids.device)
        starts, lengths = (to_device(np.array([value], dtype=np.int32), ids.device) for value in (0, start))
        new = [NewRange(slice(0, count), start)]
        past = KeptRooms(room, starts, lengths, layout, slice(0, 1), new)
        last_layer = len(self._model.layers) - 1
        return Plan(ids, positions, layout, self._model.is_causal, last_layer, slice(count - 1, count), past)


def _mark(device: torch.device) -> torch.cuda.Event | None:
    """When all that was launched is done."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event
