"""A long input runs in pieces, so that others wait for little: in which order, how large, and what each leaves behind.

A piece is some tokens in one layer; its cost grows with the tokens before it, which its queries look back at. Pieces
differ from layer to layer, and what a layer has to add to the hidden states waits for the next in full length.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from inlay.models.forward import Decoder
from inlay.models.parts import Linear
from inlay.models.past import EarlierPieces
from inlay.models.plan import Plan
from inlay.models.stream import Stream
from inlay.ops.layout import Layout
from inlay.ops.rows import Rows

PIECE_SECONDS = 0.1  # what a piece is sized for; the bar of 0.15 leaves room for a wrong guess
FIRST_TOKENS, FEWEST_TOKENS, MOST_TOKENS, UNIT = 256, 64, 4096, 64
SHORTEST_SECONDS = 1e-6  # that a piece can take, whatever a clock says
NEWEST = 0.3  # weight of the last piece in the estimate
ATTENTION_SLOWNESS = 2.0  # an operation of attention costs so many of the products', which have int8


class PieceDriver:
    """Runs long inputs of one model."""

    longest_whole = 2048  # tokens; longer inputs run in pieces

    def __init__(self, model: Decoder) -> None:
        self.sizer = PieceSizer.of(model)
        self._model = model

    def run(self, ids: Tensor, positions: Tensor) -> Generator[None, None, Tensor]:
        """The model's pass over one sequence, for its last row [1, width]; yields between pieces.

        Layer by layer, and in each layer piece by piece, so that one layer's keys and values are kept at a time.
        """
        length = len(ids)
        hidden = self._model.begin(ids, positions)
        deltas, past = Deltas(length), EarlierPieces(length)
        last_layer = len(self._model.layers) - 1
        stream = Stream(hidden)
        for number, layer in enumerate(self._model.layers):
            for start, end in self.sizer.spans(length):
                stream = Stream(hidden[start:end], _last_row(end - start), deltas.of(start, end))
                plan = self._plan(ids, positions, start, end, last_layer, past)
                if number == last_layer:  # not timed: all but the last row only leave keys and values
                    layer(stream, plan)
                else:
                    with self.sizer.timing(start, end):
                        layer(stream, plan)
                        deltas.put(start, end, stream.take())
                if number < last_layer or end < length:
                    yield
            deltas.end_layer()
        return self._model.end(stream)

    def _plan(self, ids: Tensor, positions: Tensor, start: int, end: int, last_layer: int, past: EarlierPieces) -> Plan:
        """A piece as a batch of its own; of the last layer its last row is wanted, and used of the last piece."""
        layout = Layout.of(np.array([0, end - start], dtype=np.int64), ids.device)
        wanted = _last_row(end - start)
        return Plan(ids[start:end], positions[start:end], layout, self._model.is_causal, last_layer, wanted, past)


class PieceSizer:
    """Learns what a token costs in a layer, and what each token that it looks back at; kept from input to input."""

    def __init__(self, even_length: float) -> None:
        self.even_length = even_length  # tokens looked back at that cost as much as the products: a first guess
        self._seconds_per_token: float | None = None  # in the products
        self._seconds_per_pair: float | None = None  # in attention: of a token and one that it looks back at

    @classmethod
    def of(cls, model: Decoder) -> PieceSizer:
        """For a model whose weights are still there: by what the products of a layer cost beside its attention."""
        heads, _, head_dim = model.heads
        linears = [module for module in model.layers[0].modules() if isinstance(module, Linear)]
        products = sum(linear.weight.numel() for linear in linears)
        return cls(products / (2 * heads * head_dim * ATTENTION_SLOWNESS))

    def spans(self, length: int) -> Iterator[tuple[int, int]]:
        """The pieces of a layer, each sized when it is its turn."""
        start = 0
        while start < length:
            end = min(start + self._tokens_at(start), length)
            yield start, end
            start = end

    @contextmanager
    def timing(self, start: int, end: int) -> Iterator[None]:
        """Learn from what a piece takes, with all that a layer does to it."""
        began = time.perf_counter()
        yield
        self._learn(end - start, (start + end) / 2, time.perf_counter() - began)

    def _learn(self, tokens: int, past: float, seconds: float) -> None:
        """The start of an input tells of the products, what comes later of attention."""
        seconds = max(seconds, SHORTEST_SECONDS)
        if self._seconds_per_token is None or self._seconds_per_pair is None:
            self._seconds_per_token = seconds / (tokens * (1 + past / self.even_length))
            self._seconds_per_pair = self._seconds_per_token / self.even_length
        elif self._seconds_per_pair * past < self._seconds_per_token:
            found = seconds / tokens - self._seconds_per_pair * past
            self._seconds_per_token = _nearer(self._seconds_per_token, found)
        else:
            found = (seconds / tokens - self._seconds_per_token) / past
            self._seconds_per_pair = _nearer(self._seconds_per_pair, found)

    def _tokens_at(self, start: int) -> int:
        if self._seconds_per_token is None or self._seconds_per_pair is None:
            return FIRST_TOKENS
        affordable = PIECE_SECONDS / (self._seconds_per_token + self._seconds_per_pair * start)
        return int(min(max(affordable // UNIT * UNIT, FEWEST_TOKENS), MOST_TOKENS))


def _nearer(known: float, found: float) -> float:
    """An estimate moved towards what was found, and never to nothing: a piece may have been timed badly."""
    return max(NEWEST * found + (1 - NEWEST) * known, known / 2)


class Deltas:
    """What a layer adds to each row, piece by piece; the next layer takes it in other pieces."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._values: Tensor | None = None  # [length, width]
        self._scales: Tensor | None = None  # [length]; 1 where a product gives none
        self._bias: Tensor | None = None  # [width], of the layer that is through: the same for every row
        self._coming_bias: Tensor | None = None  # of the layer that is running
        self._is_first = True

    def put(self, start: int, end: int, delta: Rows | None) -> None:
        if delta is None:
            return
        delta = delta.computed()
        if self._values is None or self._scales is None:
            self._values = delta.values.new_zeros((self._length, delta.values.shape[1]))
            self._scales = torch.ones(self._length, device=delta.values.device)
        self._values[start:end], self._coming_bias = delta.values, delta.bias
        self._scales[start:end] = 1.0 if delta.scales is None else delta.scales

    def end_layer(self) -> None:
        """All pieces of a layer are through."""
        self._bias, self._is_first = self._coming_bias, False

    def of(self, start: int, end: int) -> Rows | None:
        """What the layer before adds; None for the first layer."""
        if self._is_first or self._values is None or self._scales is None:
            return None
        return Rows(self._values[start:end], self._scales[start:end], self._bias)


def _last_row(length: int) -> slice:
    return slice(length - 1, length)
