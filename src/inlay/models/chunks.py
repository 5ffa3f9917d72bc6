"""How much of a long input runs at a time, so that others wait for little.

In: the time that each piece took. Out: the size of the next one. A piece is some tokens in one layer; its cost grows
with the tokens before it, which its queries look back at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PIECE_SECONDS = 0.1  # what a piece is sized for; the bar of 0.15 leaves room for a wrong guess
FIRST_TOKENS, FEWEST_TOKENS, MOST_TOKENS, UNIT = 256, 64, 4096, 64
NEWEST = 0.3  # weight of the last piece in the estimate
ATTENTION_SLOWNESS = 2.0  # an operation of attention costs so many of the products', which have int8


class PieceSizer:
    """Learns what a token costs in a layer; kept from input to input."""

    def __init__(self, even_length: float) -> None:
        self._even_length = even_length  # tokens looked back at that cost as much as the products
        self._seconds_per_token: float | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any], head_dim: int) -> PieceSizer:
        """For a decoder layer of a config: products with grouped queries and a gated MLP."""
        width, heads = config["hidden_size"], config["num_attention_heads"]
        attention = heads * head_dim
        products = 2 * attention + 2 * config["num_key_value_heads"] * head_dim + 3 * config["intermediate_size"]
        return cls(width * products / (2 * attention * ATTENTION_SLOWNESS))

    def next_end(self, start: int, length: int) -> int:
        """Where a piece that begins at `start` of an input of `length` tokens should end."""
        tokens = FIRST_TOKENS
        if self._seconds_per_token is not None:
            affordable = PIECE_SECONDS / (self._seconds_per_token * (1 + start / self._even_length))
            tokens = int(min(max(affordable // UNIT * UNIT, FEWEST_TOKENS), MOST_TOKENS))
        return min(start + tokens, length)

    def record(self, start: int, end: int, seconds: float) -> None:
        """What a piece took."""
        cost = (end - start) * (1 + (start + end) / 2 / self._even_length)
        newest = seconds / cost
        known = self._seconds_per_token
        self._seconds_per_token = newest if known is None else NEWEST * newest + (1 - NEWEST) * known
