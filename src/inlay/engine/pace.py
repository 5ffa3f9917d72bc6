"""How long a batch will take, and forming one: learnt from those before.

By size, since small batches get less out of a device. Seconds in, seconds out; knows nothing of clocks.
"""

from __future__ import annotations

NEWEST = 0.3  # weight of the last batch of a size


class Pace:
    """Seconds a token for sizes that differ by a factor of two, and seconds of forming."""

    def __init__(self) -> None:
        self.forming_seconds = 0.0  # packing a batch and sending it to the device
        self._seconds_per_token: dict[int, float] = {}

    def note(self, num_tokens: int, seconds: float) -> None:
        """A batch ran for so long."""
        size, found = num_tokens.bit_length(), seconds / max(num_tokens, 1)
        known = self._seconds_per_token.get(size, found)
        self._seconds_per_token[size] = _nearer(known, found)

    def note_forming(self, seconds: float) -> None:
        """A batch was formed and sent in so long."""
        self.forming_seconds = _nearer(self.forming_seconds, seconds)

    def expected_seconds(self, num_tokens: int) -> float:
        """Of a batch; 0 where none of its size has run."""
        return self._seconds_per_token.get(num_tokens.bit_length(), 0.0) * num_tokens


def _nearer(known: float, found: float) -> float:
    return NEWEST * found + (1 - NEWEST) * known
