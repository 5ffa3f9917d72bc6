"""The scheduler behind a lock: requests come in whole from many threads, batches go out to one.

In: the sequences of a request, all or none. Out: batches. Refusals say when to come back, from the rate at
which the device has been draining the queue. Knows nothing of devices.
"""

from __future__ import annotations

from collections.abc import Iterable
from threading import Condition

from inlay.engine.batch import Sequence
from inlay.engine.scheduler import Cost, Scheduler, all_tokens
from inlay.engine.stats import EngineStats
from inlay.engine.unanswered import Unanswered
from inlay.errors import InlayError, Overloaded, TooLarge

SHORTEST_RETRY, LONGEST_RETRY = 0.05, 120.0  # seconds
UNKNOWN_RATE = 1000.0  # tokens per second, before the first batch


class SequenceQueue:
    """A closable, bounded queue. `close` wakes the taker, and from then on nothing comes in."""

    def __init__(self, scheduler: Scheduler, unanswered: Unanswered, stats: EngineStats) -> None:
        self._scheduler = scheduler
        self._unanswered = unanswered
        self._stats = stats
        self._changed = Condition()
        self._closed_with: InlayError | None = None

    @property
    def queued_tokens(self) -> int:
        return self._scheduler.queued_tokens

    @property
    def max_batch_tokens(self) -> int:
        return self._scheduler.max_batch_tokens

    def refusal(self, num_tokens: int) -> InlayError | None:
        """Why so many tokens cannot come in now; None when they can."""
        if self._closed_with is not None:
            return self._closed_with
        most, queued = self._scheduler.max_queue_tokens, self._scheduler.queued_tokens
        if self._scheduler.has_room(num_tokens):
            return None
        if num_tokens > most:
            return TooLarge(
                f"the request has {num_tokens} tokens, more than the whole queue holds ({most}): "
                "send it in parts, or raise --max-queue-tokens"
            )
        seconds = (queued + num_tokens - most) / (self._stats.tokens_per_second or UNKNOWN_RATE)
        return Overloaded(
            f"{queued} tokens are waiting and at most {most} may: try again after the time in Retry-After",
            retry_after=min(max(seconds, SHORTEST_RETRY), LONGEST_RETRY),
        )

    def put_many(self, sequences: list[Sequence]) -> InlayError | None:
        """Queue all sequences of a request, or none and say why."""
        unwanted = [sequence for sequence in sequences if sequence.is_cancelled]
        wanted = [sequence for sequence in sequences if not sequence.is_cancelled] if unwanted else sequences
        num_tokens = sum(sequence.num_tokens for sequence in wanted)
        with self._changed:
            refusal = self.refusal(num_tokens)
            if refusal is None:
                self._scheduler.add_many(wanted)
                self._changed.notify()
        if refusal is None:
            self._drop(unwanted)
        return refusal

    def cancel_many(self, sequences: Iterable[Sequence]) -> None:
        """Nobody waits for these any more: those that are still here go, and make room at once."""
        with self._changed:
            dropped = self._scheduler.drop_many(sequences)
        self._drop(dropped)

    def promote_many(self, sequences: Iterable[Sequence]) -> None:
        """The priority of these has risen."""
        with self._changed:
            self._scheduler.promote_many(sequences)

    def note_out_of_memory(self, num_tokens: int) -> int:
        """A batch of so many tokens did not fit: the most that a batch has from now on."""
        with self._changed:
            self._scheduler.note_out_of_memory(num_tokens)
            return self._scheduler.batch_tokens

    def note_success(self) -> None:
        """A batch ran."""
        with self._changed:
            self._scheduler.note_success()

    def take(self, wait_seconds: float, cost: Cost = all_tokens, *, is_between: bool = False) -> list[Sequence] | None:
        """The next batch; empty when none came within the time; None once the queue is closed."""
        with self._changed:
            if not len(self._scheduler) and self._closed_with is None and wait_seconds > 0:
                self._changed.wait(wait_seconds)
            if self._closed_with is not None:
                return None
            batch, dropped = self._scheduler.next_batch(cost, is_between=is_between)
        self._drop(dropped)
        return batch

    def close(self, error: InlayError) -> None:
        """Take nothing more; what was waiting is answered with `error`."""
        with self._changed:
            self._closed_with = error
            self._changed.notify_all()
            waiting = self._scheduler.drop_all()
        self._unanswered.fail_many(waiting, error)

    def _drop(self, sequences: list[Sequence]) -> None:
        if sequences:
            self._stats.dropped_sequences += len(sequences)
            self._unanswered.drop_many(sequences)
