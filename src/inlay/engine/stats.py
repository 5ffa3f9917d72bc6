"""Counters of one worker, read by the metrics. Written by its device thread; torn reads do no harm."""

from __future__ import annotations

from dataclasses import dataclass

SMOOTHING = 0.2  # weight of the newest batch in the drain rate


@dataclass(slots=True)
class EngineStats:
    """Totals since start, and the present drain rate."""

    batches: int = 0
    sequences: int = 0
    tokens: int = 0
    busy_seconds: float = 0.0
    failed_sequences: int = 0
    dropped_sequences: int = 0
    retried_batches: int = 0
    out_of_memory: int = 0
    tokens_per_second: float = 0.0

    def record(self, num_sequences: int, num_tokens: int, seconds: float) -> None:
        """Add a batch that ran."""
        self.batches += 1
        self.sequences += num_sequences
        self.tokens += num_tokens
        self.busy_seconds += seconds
        rate = num_tokens / max(seconds, 1e-9)
        if self.tokens_per_second:
            rate = SMOOTHING * rate + (1 - SMOOTHING) * self.tokens_per_second
        self.tokens_per_second = rate
