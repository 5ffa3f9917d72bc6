"""Decides what runs next: fair between requests, shortest first within one, and nothing starves.

Start-time fair queueing (Goyal et al. 1996) with tokens as the measure of work. A request's sequences get
tags: the virtual time at its arrival plus the tokens that go before each of them, times the priority's
weight. The smallest tag runs first, so a short query that arrives while a million documents wait goes
before nearly all of them. Every eighth batch begins with the sequence that has waited longest: under
overload, when new requests come faster than virtual time passes, that is what keeps the old ones moving.

There is no waiting window: the next batch forms when the device is free. Not thread-safe; knows no torch.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from inlay.types import Priority, Sequence

OLDEST_EVERY = 8  # batches
BETWEEN_SHARE = 8  # between the pieces of a long input, a batch has an eighth of the usual tokens
WEIGHTS = {Priority.HIGH: 0.25, Priority.NORMAL: 1.0, Priority.LOW: 8.0}


@dataclass(order=True, slots=True)
class _Waiting:
    finish: float  # virtual time when it would be done
    number: int  # first come first served among equals
    start: float = field(compare=False)
    sequence: Sequence = field(compare=False)
    is_gone: bool = field(default=False, compare=False)  # taken by way of the other order


class Scheduler:
    """A queue bounded in tokens, from which batches bounded in tokens and sequences are drawn."""

    def __init__(self, max_batch_tokens: int, max_batch_sequences: int, max_queue_tokens: int) -> None:
        self.max_batch_tokens = max_batch_tokens
        self.max_batch_sequences = max_batch_sequences
        self.max_queue_tokens = max_queue_tokens
        self.queued_tokens = 0
        self._heap: list[_Waiting] = []
        self._arrivals: deque[_Waiting] = deque()
        self._num_waiting = 0
        self._num_batches = 0
        self._virtual_time = 0.0
        self._numbers = count()

    def __len__(self) -> int:
        return self._num_waiting

    def has_room(self, num_tokens: int) -> bool:
        return self.queued_tokens + num_tokens <= self.max_queue_tokens

    def add_many(self, sequences: list[Sequence]) -> None:
        """Queue the sequences of one request; the caller has asked `has_room`."""
        tag = self._virtual_time
        for sequence in sorted(sequences, key=lambda waiting: waiting.num_tokens):
            start = tag
            tag += sequence.num_tokens * WEIGHTS[sequence.item.priority]
            waiting = _Waiting(tag, next(self._numbers), start, sequence)
            heapq.heappush(self._heap, waiting)
            self._arrivals.append(waiting)
            self._num_waiting += 1
            self.queued_tokens += sequence.num_tokens

    def next_batch(
        self, is_unwanted: Callable[[Sequence], bool], *, is_between: bool = False
    ) -> tuple[list[Sequence], list[Sequence]]:
        """The sequences to run now, and those dropped on the way because nobody wants them any more.

        A sequence longer than `max_batch_tokens` runs alone. Between the pieces of a long input a batch is small, so
        that both get on, and such a sequence waits.
        """
        batch: list[Sequence] = []
        dropped: list[Sequence] = []
        most = max(self.max_batch_tokens // BETWEEN_SHARE, 1) if is_between else self.max_batch_tokens
        num_tokens = 0
        while len(batch) < self.max_batch_sequences:
            head = self._head(may_be_oldest=not batch and not is_between)
            if head is None:
                break
            sequence = head.sequence
            if is_unwanted(sequence):
                dropped.append(self._take(head))
                continue
            room = most - num_tokens if batch else self.max_batch_tokens
            if (batch or is_between) and sequence.num_tokens > room:
                break
            num_tokens += sequence.num_tokens
            batch.append(self._take(head))
        self._num_batches += bool(batch)
        return batch, dropped

    def drop_unwanted(self, is_unwanted: Callable[[Sequence], bool]) -> list[Sequence]:
        """Make room by dropping what nobody wants any more."""
        unwanted = [waiting for waiting in self._heap if not waiting.is_gone and is_unwanted(waiting.sequence)]
        dropped = [self._take(waiting) for waiting in unwanted]
        self._heap = [waiting for waiting in self._heap if not waiting.is_gone]
        heapq.heapify(self._heap)
        self._arrivals = deque(waiting for waiting in self._arrivals if not waiting.is_gone)
        return dropped

    def drop_all(self) -> list[Sequence]:
        return self.drop_unwanted(lambda sequence: True)

    def _head(self, *, may_be_oldest: bool) -> _Waiting | None:
        """The next in turn: by tag, or by arrival at the beginning of every eighth batch."""
        while self._arrivals and self._arrivals[0].is_gone:
            self._arrivals.popleft()
        if not self._arrivals:
            self._heap.clear()
            self._virtual_time = 0.0
            return None
        if may_be_oldest and self._num_batches % OLDEST_EVERY == OLDEST_EVERY - 1:
            return self._arrivals[0]
        while self._heap[0].is_gone:
            heapq.heappop(self._heap)
        return self._heap[0]

    def _take(self, waiting: _Waiting) -> Sequence:
        waiting.is_gone = True
        self._num_waiting -= 1
        self.queued_tokens -= waiting.sequence.num_tokens
        self._virtual_time = max(self._virtual_time, min(waiting.start, self._heap[0].start))
        return waiting.sequence
