"""Measures an engine: latency and tokens a second by length and batch, against the ceiling of the device.

In: a loaded worker and rows to measure. Out: one record a row. Inputs are random token ids, new ones each
time, and take the way of every request behind the tokenizer: queue, batches, device. Nothing is cached.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from inlay.bench.ask import Asker
from inlay.bench.ceiling import Ceiling
from inlay.errors import ConfigError
from inlay.types import IntArray, Worker

LENGTHS, BATCHES = (64, 128, 256, 512, 1024, 2048), (1, 4, 8, 16, 32)
MIXED = "mixed"
MIXED_LENGTHS, MIXED_COUNT = (16, 256), 64  # tokens, sequences
FEWEST_RUNS = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    lengths: tuple[int, ...]  # tokens of each sequence

    @property
    def num_tokens(self) -> int:
        return sum(self.lengths)


def default_rows(max_tokens: int) -> list[Row]:
    """Every batch size with every length that the model takes, and one of mixed lengths."""
    lengths = [length for length in LENGTHS if length <= max_tokens]
    grid = [parse_row(f"{batch}x{length}") for length in lengths for batch in BATCHES]
    return [parse_row("1x16"), *grid, parse_row(MIXED)]


def parse_row(text: str) -> Row:
    """`8x128`: eight sequences of 128 tokens; `mixed`: shuffled lengths."""
    if text.strip() == MIXED:
        shortest, longest = MIXED_LENGTHS
        lengths = np.linspace(shortest, longest, MIXED_COUNT).round().astype(int)
        return Row(MIXED, tuple(np.random.default_rng(0).permutation(lengths).tolist()))
    batch, _, length = text.strip().partition("x")
    if not (batch.isdecimal() and length.isdecimal() and int(batch) and int(length)):
        raise ConfigError(f"--rows: {text!r} is neither BATCHxLENGTH, such as 8x128, nor {MIXED}")
    return Row(text.strip(), (int(length),) * int(batch))


class EngineBench:
    """Times rows on one worker."""

    def __init__(self, worker: Worker, ceiling: Ceiling, max_batch_tokens: int) -> None:
        self._worker = worker
        self._asker = Asker(worker)
        self._ceiling = ceiling
        self._max_batch_tokens = max_batch_tokens
        self._random = np.random.default_rng()
        self._rate = 0.0  # best tokens per second so far: what tells how long a row will take

    def measure(self, rows: list[Row], seconds: float, longest: float) -> Iterator[dict[str, Any]]:
        """A record for each row, measured for so many seconds; rows that would take `longest` are skipped."""
        for row in rows:
            if max(row.lengths) > self._worker.spec.max_tokens:
                yield {"row": row.name, "skipped": f"the model takes {self._worker.spec.max_tokens} tokens"}
                continue
            expected = (FEWEST_RUNS + 1) * row.num_tokens / self._rate if self._rate else 0.0
            if expected > longest:
                yield {"row": row.name, "skipped": f"would take {expected:.0f} s: raise --longest"}
                continue
            yield self._measure_row(row, seconds)

    def _measure_row(self, row: Row, seconds: float) -> dict[str, Any]:
        ceiling = self._ceiling_of(row)
        self._run(row)  # the kernels of these sizes are made here
        taken: list[float] = []
        while len(taken) < FEWEST_RUNS or sum(taken) < seconds:
            taken.append(self._run(row))
        latency = statistics.median(taken)
        rate = row.num_tokens / latency
        self._rate = max(self._rate, rate)
        record: dict[str, Any] = {
            "row": row.name,
            "tokens": row.num_tokens,
            "runs": len(taken),
            "latency_ms": round(latency * 1000, 2),
            "worst_ms": round(max(taken) * 1000, 2),
            "texts_per_s": round(len(row.lengths) / latency, 2),
            "tokens_per_s": round(rate, 1),
        }
        ceiling = (ceiling + self._ceiling_of(row)) / 2  # before and after: the machine may be shared
        return record | {"ceiling_tokens_per_s": round(ceiling, 1), "of_ceiling": round(rate / ceiling, 3)}

    def _ceiling_of(self, row: Row) -> float:
        return self._ceiling.tokens_per_second(min(row.num_tokens, max(self._max_batch_tokens, max(row.lengths))))

    def _run(self, row: Row) -> float:
        """Seconds from handing all sequences in to having all vectors."""
        lists = [self._ids(length).tolist() for length in row.lengths]
        began = time.perf_counter()
        self._asker.ask(lists)
        return time.perf_counter() - began

    def _ids(self, length: int) -> IntArray:
        return self._random.integers(0, self._worker.spec.vocab_rows, length)
