"""The device loop: takes batches from the queue, runs them, hands every item back.

No path loses an item: a failed batch is retried one by one so that only the guilty fails, and out of
memory halves it. While a batch runs on an asynchronous device, the next one is packed and sent. After a
failure that no retry explains, a batch that ran before is run again: if it fails too, the device is broken.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from inlay.engine.answers import answer_unwanted, fail_all, hand_back_all, is_unwanted
from inlay.engine.batch import pack
from inlay.engine.queue import SequenceQueue
from inlay.engine.stats import EngineStats
from inlay.errors import EngineError, InlayError, NonFiniteVector, OutOfMemory, ShuttingDown
from inlay.telemetry.logs import get_logger
from inlay.types import Batch, FloatArray, ModelSpec, Sequence

log = get_logger("engine")

IDLE_BEAT_SECONDS = 1.0
STOPPED = "the server shut down before this long input was done: try another one"


class BatchRunner(Protocol):
    """What the loop needs of a runner; what `launch` returns is for `collect` alone."""

    @property
    def is_asynchronous(self) -> bool: ...

    @property
    def spec(self) -> ModelSpec: ...

    def launch(self, batch: Batch) -> Any: ...  # noqa: ANN401

    def is_divisible(self, batch: Batch) -> bool: ...

    def launch_in_pieces(self, batch: Batch) -> Generator[None, None, Any]: ...

    def collect(self, launched: Any) -> FloatArray: ...  # noqa: ANN401


@dataclass(slots=True)
class InFlight:
    """A batch on the device."""

    batch: Batch
    launched: Any
    began: float


@dataclass(slots=True)
class LongRun:
    """A long input on its way, piece by piece."""

    batch: Batch
    pieces: Generator[None, None, Any]
    began: float


class DeviceLoop:
    """Runs on the one thread that owns the device; `beat` and `is_broken` are read by others."""

    def __init__(self, runner: BatchRunner, queue: SequenceQueue, probe: Batch, stats: EngineStats) -> None:
        self.beat = time.monotonic()
        self.is_broken = False
        self._runner = runner
        self._queue = queue
        self._probe = probe
        self._stats = stats
        self._flying: InFlight | None = None
        self._long: LongRun | None = None

    def run(self) -> None:
        """Serve until the queue is closed. An exception out of here is a bug; see `fail_in_flight`."""
        while (sequences := self._take()) is not None:
            launched = self._launch(sequences) if sequences else None
            if self._flying is not None:
                self._land(self._flying)
            self._flying = launched
            if self._flying is not None and not self._runner.is_asynchronous:
                self._land(self._flying)
                self._flying = None
            if self._long is not None:
                self._advance(self._long)
        if self._flying is not None:
            self._land(self._flying)
        if self._long is not None:
            fail_all(self._long.batch.sequences, ShuttingDown(STOPPED, retry_after=1.0))

    def fail_in_flight(self, error: InlayError) -> None:
        """Answer what a dying loop leaves behind."""
        for batch in (run.batch for run in (self._flying, self._long) if run is not None):
            fail_all(batch.sequences, error)

    def _take(self) -> list[Sequence] | None:
        self.beat = time.monotonic()
        is_idle = self._flying is None and self._long is None
        return self._queue.take(IDLE_BEAT_SECONDS if is_idle else 0, is_between=self._long is not None)

    def _advance(self, long: LongRun) -> None:
        """Run the next piece of the long input; answer it after the last, or when nobody waits any more."""
        sequences = long.batch.sequences
        if all(is_unwanted(sequence) for sequence in sequences):
            self._long = None
            self._stats.dropped_sequences += len(sequences)
            answer_unwanted(sequences)
            return
        try:
            next(long.pieces)
        except StopIteration as finished:
            self._long = None
            self._land(InFlight(long.batch, finished.value, long.began))
        except Exception as error:  # noqa: BLE001 - as in _launch
            self._long = None
            self._recover(sequences, error)

    def _launch(self, sequences: list[Sequence]) -> InFlight | None:
        """Send a batch to the device; None when it failed there and then (its items are answered)."""
        began = time.monotonic()
        for sequence in sequences:
            sequence.item.queue_seconds = began - sequence.arrived
        batch = pack(sequences)
        if self._long is None and self._runner.is_divisible(batch):
            self._long = LongRun(batch, self._runner.launch_in_pieces(batch), began)
            return None
        try:
            return InFlight(batch, self._runner.launch(batch), began)
        except Exception as error:  # noqa: BLE001 - a failed batch is its items' answer, not the loop's end
            self._recover(batch.sequences, error)
            return None

    def _land(self, flying: InFlight) -> None:
        """Wait for a batch and hand its items back."""
        sequences = flying.batch.sequences
        try:
            vectors = self._runner.collect(flying.launched)
        except Exception as error:  # noqa: BLE001 - as in _launch
            self._recover(sequences, error)
            return
        self.beat = time.monotonic()
        self.is_broken = False
        seconds = self.beat - flying.began
        self._stats.record(len(sequences), flying.batch.num_tokens, seconds)
        self._fill(sequences, vectors[flying.batch.rows], seconds)
        hand_back_all(sequences)

    def _fill(self, sequences: list[Sequence], vectors: FloatArray, seconds: float) -> None:
        finite: list[bool] = np.isfinite(vectors).all(axis=1).tolist()  # type: ignore[assignment]
        vectors.flags.writeable = False
        for sequence, vector, is_finite in zip(sequences, vectors, finite, strict=True):
            sequence.item.model_seconds = seconds
            if is_finite:
                sequence.item.vector = vector
                continue
            self._stats.failed_sequences += 1
            sequence.item.error = NonFiniteVector(
                f"gives a vector that is not finite in {self._runner.spec.dtype}: serve the model with --dtype float32"
            )

    def _recover(self, sequences: list[Sequence], error: Exception) -> None:
        """Run a failed batch again in parts: halves when memory ran out, else one by one."""
        is_out_of_memory = isinstance(error, OutOfMemory)
        self._stats.out_of_memory += is_out_of_memory
        log.warning(
            "batch failed",
            model=self._runner.spec.name,
            sequences=len(sequences),
            tokens=sum(sequence.num_tokens for sequence in sequences),
            error=f"{type(error).__name__}: {error}",
        )
        if len(sequences) == 1:
            self._give_up(sequences, error)
            return
        self._stats.retried_batches += 1
        size = (len(sequences) + 1) // 2 if is_out_of_memory else 1
        for start in range(0, len(sequences), size):
            part = self._launch(sequences[start : start + size])
            if part is not None:
                self._land(part)

    def _give_up(self, sequences: list[Sequence], error: Exception) -> None:
        self._stats.failed_sequences += len(sequences)
        if isinstance(error, InlayError):
            fail_all(sequences, error)
            return
        fail_all(sequences, EngineError(f"failed on the device ({type(error).__name__}): the log has more"))
        try:
            self._runner.collect(self._runner.launch(self._probe))
        except Exception:  # noqa: BLE001 - that it fails at all is the finding
            self.is_broken = True
