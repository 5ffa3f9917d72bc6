"""A long input runs in pieces, so that others wait for little: how large a piece is, and what it leaves behind.

A piece is some tokens in one layer; its cost grows with the tokens before it, which its queries look back at. Pieces
differ from layer to layer, and what a layer has to add to the hidden states waits for the next in full length.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from inlay.ops.rows import Incoming, Rows, computed

PIECE_SECONDS = 0.1  # what a piece is sized for; the bar of 0.15 leaves room for a wrong guess
FIRST_TOKENS, FEWEST_TOKENS, MOST_TOKENS, UNIT = 256, 64, 4096, 64
SHORTEST_SECONDS = 1e-6  # that a piece can take, whatever a clock says
NEWEST = 0.3  # weight of the last piece in the estimate
ATTENTION_SLOWNESS = 2.0  # an operation of attention costs so many of the products', which have int8


class PieceSizer:
    """Learns what a token costs in a layer, and what each token that it looks back at; kept from input to input."""

    def __init__(self, even_length: float) -> None:
        self._even_length = even_length  # tokens looked back at that cost as much as the products: a first guess
        self._seconds_per_token: float | None = None  # in the products
        self._seconds_per_pair: float | None = None  # in attention: of a token and one that it looks back at

    @classmethod
    def of(cls, config: Mapping[str, Any], head_dim: int) -> PieceSizer:
        """For a decoder layer of a config: products with grouped queries and a gated MLP."""
        width, heads = config["hidden_size"], config["num_attention_heads"]
        attention = heads * head_dim
        products = 2 * attention + 2 * config["num_key_value_heads"] * head_dim + 3 * config["intermediate_size"]
        return cls(width * products / (2 * attention * ATTENTION_SLOWNESS))

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
            self._seconds_per_token = seconds / (tokens * (1 + past / self._even_length))
            self._seconds_per_pair = self._seconds_per_token / self._even_length
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
        self._bias: Tensor | None = None  # [width], the same for every row

    def put(self, start: int, end: int, delta: Incoming) -> None:
        delta = computed(delta)
        if self._values is None or self._scales is None:
            self._values = delta.values.new_zeros((self._length, delta.values.shape[1]))
            self._scales = torch.ones(self._length, device=delta.values.device)
        self._values[start:end], self._bias = delta.values, delta.bias
        self._scales[start:end] = 1.0 if delta.scales is None else delta.scales

    def of(self, start: int, end: int) -> Rows | None:
        """None or zeros where the first layer has not been."""
        if self._values is None or self._scales is None:
            return None
        return Rows(self._values[start:end], self._scales[start:end], self._bias)
