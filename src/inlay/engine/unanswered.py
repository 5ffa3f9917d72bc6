"""Every piece of work in an engine that has no answer yet: what is in here is answered exactly once.

In: work as it arrives. Out: sequences for the engine, and answers for whoever waits, one call for each receiver.
Cancelling and raising a priority find their sequence here, wherever in the engine it is. Any thread may call.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from threading import Lock

from inlay.engine.batch import Sequence
from inlay.errors import Cancelled, InlayError
from inlay.telemetry.logs import get_logger
from inlay.types import Answer, Deliver, Failure, Priority, Work

log = get_logger("engine")


class Unanswered:
    """Sequences by the id of their work."""

    def __init__(self) -> None:
        self._sequences: dict[int, Sequence] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._sequences)

    def open_many(self, works: list[Work], deliver: Deliver) -> list[Sequence]:
        """A sequence for each piece of work; ValueError where one has the id of another that is here."""
        now = time.monotonic()
        opened = {work.id: Sequence(work, deliver, now, work.priority) for work in works}
        with self._lock:
            if len(opened) < len(works) or not self._sequences.keys().isdisjoint(opened):
                raise ValueError("two pieces of work have one id")
            self._sequences |= opened
        return list(opened.values())

    def cancel_many(self, ids: Iterable[int]) -> list[Sequence]:
        """Nobody waits for these any more; those that are still here."""
        found = self._find_many(ids)
        for sequence in found:
            sequence.is_cancelled = True
        return found

    def promote_many(self, ids: Iterable[int], priority: Priority) -> list[Sequence]:
        """The priority of these has risen; those that are still here."""
        found = [sequence for sequence in self._find_many(ids) if priority.is_above(sequence.priority)]
        for sequence in found:
            sequence.priority = priority
        return found

    def answer_many(self, answers: list[Answer]) -> None:
        """Hand answers over, all of a receiver in one call; one that is not waited for here goes nowhere."""
        with self._lock:
            found = [(self._sequences.pop(answer.id, None), answer) for answer in answers]
        receivers: dict[Deliver, list[Answer]] = {}
        for sequence, answer in found:
            if sequence is not None:
                receivers.setdefault(sequence.deliver, []).append(answer)
        for deliver, own in receivers.items():
            hand_over(deliver, own)

    def fail_many(self, sequences: Iterable[Sequence], error: InlayError) -> None:
        """Answer sequences with an error."""
        failure = Failure.of(error)
        self.answer_many([failed(sequence, failure) for sequence in sequences])

    def drop_many(self, sequences: Iterable[Sequence]) -> None:
        """Answer sequences that nobody waits for any more."""
        self.fail_many(sequences, Cancelled("the client has gone"))

    def fail_all(self, error: InlayError) -> None:
        """Answer all that is left."""
        self.fail_many(list(self._sequences.values()), error)

    def _find_many(self, ids: Iterable[int]) -> list[Sequence]:
        with self._lock:
            return [self._sequences[number] for number in ids if number in self._sequences]


def failed(sequence: Sequence, failure: Failure) -> Answer:
    """The answer of a sequence that has no output."""
    return Answer(sequence.work.id, failure=failure, queue_seconds=sequence.queue_seconds)


def hand_over(deliver: Deliver, answers: list[Answer]) -> None:
    """Give answers to their receiver; one that has gone, or fails, must not hurt the others."""
    try:
        deliver(answers)
    except Exception as error:  # noqa: BLE001 - such as a closed event loop: nobody waits any more
        log.warning("a receiver did not take its answers", answers=len(answers), error=type(error).__name__)
