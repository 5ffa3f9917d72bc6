"""How long a batch will take, learnt from those before it; by size, since small batches get less out of a device."""

from __future__ import annotations

NEWEST = 0.3  # weight of the last batch of a size


class Pace:
    """Seconds a token, for sizes that differ by a factor of two."""

    def __init__(self) -> None:
        self._seconds_per_token: dict[int, float] = {}

    def note(self, num_tokens: int, seconds: float) -> None:
        """A batch ran for so long."""
        size, found = num_tokens.bit_length(), seconds / max(num_tokens, 1)
        known = self._seconds_per_token.get(size, found)
        self._seconds_per_token[size] = NEWEST * found + (1 - NEWEST) * known

    def expected_seconds(self, num_tokens: int) -> float:
        """Of a batch; 0 where none of its size has run."""
        return self._seconds_per_token.get(num_tokens.bit_length(), 0.0) * num_tokens
