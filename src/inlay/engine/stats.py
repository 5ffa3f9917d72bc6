"""Counters of one worker. Written by its device thread, read by the metrics."""

from __future__ import annotations

from bisect import bisect_left

from inlay.types import BATCH_TOKENS, WorkerStats

SMOOTHING = 0.2  # weight of the newest batch in the rate


class EngineStats(WorkerStats):
    """Totals since start, and the present rate."""

    def record(self, num_sequences: int, num_tokens: int, seconds: float) -> None:
        """Add a batch that ran."""
        self.batches += 1
        self.sequences += num_sequences
        self.tokens += num_tokens
        self.busy_seconds += seconds
        self.batches_by_tokens[bisect_left(BATCH_TOKENS, num_tokens)] += 1
        rate = num_tokens / max(seconds, 1e-9)
        if self.tokens_per_second:
            rate = SMOOTHING * rate + (1 - SMOOTHING) * self.tokens_per_second
        self.tokens_per_second = rate
