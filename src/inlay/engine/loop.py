"""The device loop: takes batches from the queue, runs them, has every sequence answered.

A failed batch is retried one by one so that only the one at fault fails, and out of memory halves it, and the batches
after it. While a batch runs on an asynchronous device, the next one is packed and sent. After a failure that no retry
explains, a batch that ran before is run again: if it fails too, the device is broken.
"""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from inlay.engine.batch import Batch, Sequence, pack
from inlay.engine.pace import Pace
from inlay.engine.queue import SequenceQueue
from inlay.engine.stats import EngineStats
from inlay.engine.unanswered import Unanswered, failed
from inlay.errors import DeviceLost, EngineError, InlayError, NonFiniteVector, OutOfMemory, ShuttingDown
from inlay.telemetry.logs import get_logger
from inlay.types import Answer, Failure, ModelSpec

log = get_logger("engine")

IDLE_BEAT_SECONDS = 1.0
LEAD_SECONDS = 0.001  # more than forming and sending a batch takes, before the one on the device is done
POLL_SECONDS = 0.0002
STOPPED = "the server shut down before this long input was done: try another one"


Payloads = Mapping[str, list[bytes | None]]  # by kind, of each place of a batch; None where it is not finite


class BatchRunner(Protocol):
    """What the loop needs of a runner; what `launch` returns is for `collect` alone."""

    @property
    def is_asynchronous(self) -> bool: ...

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def device_bytes(self) -> int: ...

    def cost(self, sequence: Sequence) -> int:
        """Tokens of a sequence that would run; the others were kept from before."""
        ...

    def launch(self, batch: Batch) -> Any: ...  # noqa: ANN401

    def is_done(self, launched: Any) -> bool: ...  # noqa: ANN401

    def is_divisible(self, batch: Batch) -> bool: ...

    def launch_in_pieces(self, batch: Batch) -> Generator[None, None, Any]: ...

    def collect(self, launched: Any) -> Payloads: ...  # noqa: ANN401


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
    """Runs on the one thread that owns the device; `beat` and `is_broken` are read by others.

    `rest` is called now and then while nothing is to be done.
    """

    def __init__(
        self,
        runner: BatchRunner,
        queue: SequenceQueue,
        unanswered: Unanswered,
        probe: Batch,
        stats: EngineStats,
        rest: Callable[[], None] = lambda: None,
    ) -> None:
        self.beat = time.monotonic()
        self.is_broken = False
        self.loss: DeviceLost | None = None  # after which nothing runs any more
        self._runner = runner
        self._queue = queue
        self._unanswered = unanswered
        self._probe = probe
        self._stats = stats
        self._rest = rest
        self._flying: InFlight | None = None
        self._longs: deque[LongRun] = deque()  # the first one runs; others only after a batch of several failed
        self._last_end = 0.0
        self._pace = Pace()

    def run(self) -> None:
        """Serve until the queue is closed. After an exception out of here, a bug, some work has no answer yet."""
        while (sequences := self._take()) is not None:
            launched = self._launch(sequences) if sequences else None
            flying, self._flying = self._flying, launched
            if flying is not None:
                self._land(flying)
            if self._flying is not None and not self._runner.is_asynchronous:
                self._land(self._flying)
                self._flying = None
            if self._longs:
                self._advance(self._longs[0])
        if self._flying is not None:
            self._land(self._flying)
        for long in self._longs:
            self._unanswered.fail_many(long.batch.sequences, ShuttingDown(STOPPED, retry_after=1.0))

    def _take(self) -> list[Sequence] | None:
        self.beat = time.monotonic()
        if self._flying is not None and not self._longs:
            self._wait_for_turn(self._flying)
        is_idle = self._flying is None and not self._longs
        wait_seconds = IDLE_BEAT_SECONDS if is_idle else 0
        sequences = self._queue.take(wait_seconds, self._runner.cost, is_between=bool(self._longs))
        if is_idle and not sequences:
            self._rest()
        return sequences

    def _wait_for_turn(self, flying: InFlight) -> None:
        """The next batch is formed when the one on the device is nearly done: who comes late waits for one, not two."""
        began = max(flying.began, self._last_end)
        lead = LEAD_SECONDS + 2 * self._pace.forming_seconds
        turn = began + self._pace.expected_seconds(flying.batch.num_tokens) - lead
        while (remaining := turn - time.monotonic()) > 0 and not self._runner.is_done(flying.launched):
            time.sleep(min(remaining, POLL_SECONDS))

    def _advance(self, long: LongRun) -> None:
        """Run the next piece of the long input; answer it after the last, or when nobody waits any more."""
        sequences = long.batch.sequences
        if all(sequence.is_cancelled for sequence in sequences):
            self._longs.popleft()
            self._stats.dropped_sequences += len(sequences)
            self._unanswered.drop_many(sequences)
            return
        failure: Exception | None = None
        try:
            next(long.pieces)
        except StopIteration as finished:
            self._longs.popleft()
            self._land(InFlight(long.batch, finished.value, long.began))
        except Exception as error:  # noqa: BLE001 - as in _launch
            failure = error
        if failure is not None:
            self._longs.popleft()
            self._recover(sequences, failure)

    def _launch(self, sequences: list[Sequence]) -> InFlight | None:
        """Send a batch to the device; None when it failed there and then (and is answered), or is long."""
        began = time.monotonic()
        for sequence in sequences:
            sequence.queue_seconds = began - sequence.arrived
        try:
            batch = pack(sequences)
            if self._runner.is_divisible(batch):
                self._longs.append(LongRun(batch, self._runner.launch_in_pieces(batch), began))
                return None
            flying = InFlight(batch, self._runner.launch(batch), began)
            self._pace.note_forming(time.monotonic() - began)
            return flying
        except Exception as error:  # noqa: BLE001 - a failed batch is its sequences' answer, not the loop's end
            failure = error
        self._recover(sequences, failure)
        return None

    def _land(self, flying: InFlight) -> None:
        """Wait for a batch and have its sequences answered."""
        sequences = flying.batch.sequences
        try:
            payloads = self._runner.collect(flying.launched)
            failure: Exception | None = None
        except Exception as error:  # noqa: BLE001 - as in _launch
            failure = error
        if failure is not None:
            self._recover(sequences, failure)
            return
        self.beat = time.monotonic()
        self.is_broken = False
        busy_seconds = self.beat - max(flying.began, self._last_end)  # the one before may have run until then
        self._last_end = self.beat
        self._pace.note(flying.batch.num_tokens, busy_seconds)
        self._stats.record(len(sequences), flying.batch.num_tokens, busy_seconds)
        self._queue.note_success()
        seconds = self.beat - flying.began
        rows = zip(sequences, flying.batch.rows, strict=True)
        self._unanswered.answer_many([self._answer(sequence, row, payloads, seconds) for sequence, row in rows])

    def _answer(self, sequence: Sequence, row: int, payloads: Payloads, seconds: float) -> Answer:
        work = sequence.work
        outputs = {kind: payload for kind in work.outputs if (payload := payloads[kind][row]) is not None}
        if len(outputs) < len(work.outputs):
            self._stats.failed_sequences += 1
            dtype = self._runner.spec.dtype
            message = f"gives a vector that is not finite in {dtype}: serve the model with --dtype float32"
            return failed(sequence, Failure.of(NonFiniteVector(message)))
        return Answer(
            work.id,
            outputs,
            num_tokens=sequence.num_tokens,
            is_truncated=sequence.is_truncated,
            queue_seconds=sequence.queue_seconds,
            model_seconds=seconds,
        )

    def _recover(self, sequences: list[Sequence], error: Exception) -> None:
        """Run a failed batch again in parts: halves when memory ran out, else one by one."""
        _clear_frames(error)
        is_out_of_memory = isinstance(error, OutOfMemory | MemoryError)
        num_tokens = sum(sequence.num_tokens for sequence in sequences)
        log.warning(
            "batch failed",
            model=self._runner.spec.name,
            sequences=len(sequences),
            tokens=num_tokens,
            error=f"{type(error).__name__}: {error}",
        )
        if is_out_of_memory:
            self._note_out_of_memory(sequences, num_tokens)
        if isinstance(error, DeviceLost) or len({sequence.content for sequence in sequences}) == 1:
            self._give_up(sequences, error)
            return
        self._stats.retried_batches += 1
        size = (len(sequences) + 1) // 2 if is_out_of_memory else 1
        for start in range(0, len(sequences), size):
            part = self._launch(sequences[start : start + size])
            if part is not None:
                self._land(part)

    def _note_out_of_memory(self, sequences: list[Sequence], num_tokens: int) -> None:
        self._stats.out_of_memory += 1
        if len(sequences) > 1:
            tokens = self._queue.note_out_of_memory(num_tokens)
            log.warning("batches are smaller for a while", model=self._runner.spec.name, max_batch_tokens=tokens)

    def _give_up(self, sequences: list[Sequence], error: Exception) -> None:
        """What fails has one content, or the device has gone."""
        self._stats.failed_sequences += len(sequences)
        self._unanswered.fail_many(sequences, _told(error))
        if isinstance(error, DeviceLost):
            self.loss = error
        if isinstance(error, InlayError | MemoryError):
            return
        try:
            self._runner.collect(self._runner.launch(self._probe))
        except Exception:  # noqa: BLE001 - that it fails at all is the finding
            self.is_broken = True


def _told(error: Exception) -> InlayError:
    """A failure as whoever waits should read it."""
    if isinstance(error, InlayError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemory("needs more memory than there is: shorten the input", retry_after=1.0)
    return EngineError(f"failed on the device ({type(error).__name__}): the log has more")


def _clear_frames(error: BaseException | None) -> None:
    """Let go of what the failed batch had: the frames of a traceback keep its tensors in the device's memory."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
