"""Decides what runs next: fair between requests, shortest first within one, and nothing starves.

Self-clocked fair queueing (Golestani 1994) with tokens as the measure of work. A sequence's tag is the virtual time at
its arrival plus the tokens of its request up to and with it, times the priority's weight; virtual time is the tag of
what ran last. The smallest tag runs first, so requests that wait together share the device evenly, whether they have
one input or a million, and a short query goes before nearly all of a bulk job. The low lane counts as a single request
beside the others, however many wait in it: each of its own would have a turn before a query that has just come. Every
eighth batch begins with the sequence that has waited longest, so that none waits for ever behind better priorities.

There is no waiting window: the next batch forms when the device is free. Not thread-safe; knows no torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from inlay.engine.batch import Sequence
from inlay.engine.lane import MOST_GONE, Lane, Waiting
from inlay.types import Priority

OLDEST_EVERY = 8  # batches
BETWEEN_SHARE = 8  # between the pieces of a long input, a batch has an eighth of the usual tokens
BACKGROUND_SHARE = 4  # beside others, a batch of the low lane has a quarter of the usual tokens
YIELDS_FOR = 64  # batches for which others count as there
MOST_PASSED_OVER = 256  # sequences that do not fit between pieces, behind which one that does is looked for
RAISED_AFTER = 64  # batches without running out of memory
WEIGHTS = {Priority.HIGH: 0.25, Priority.NORMAL: 1.0, Priority.LOW: 8.0}

Cost = Callable[[Sequence], int]  # tokens of a sequence that would run


def all_tokens(sequence: Sequence) -> int:
    """The cost where nothing of a sequence was kept from before."""
    return sequence.num_tokens


def _is_background(sequence: Sequence) -> bool:
    return sequence.priority is Priority.LOW


class Scheduler:
    """A queue bounded in tokens, from which batches bounded in tokens and sequences are drawn."""

    def __init__(self, max_batch_tokens: int, max_batch_sequences: int, max_queue_tokens: int) -> None:
        self.max_batch_tokens = max_batch_tokens
        self.max_batch_sequences = max_batch_sequences
        self.max_queue_tokens = max_queue_tokens
        self.batch_tokens = max_batch_tokens  # fewer for a while after the device ran out of memory
        self.queued_tokens = 0
        self._foreground, self._background = Lane(), Lane()
        self._arrivals: deque[Sequence] = deque()  # also some that have gone
        self._waiting: dict[Sequence, Waiting] = {}
        self._num_batches = 0
        self._last_foreground = -YIELDS_FOR  # the batch for which a sequence of another lane than the low one was next
        self._num_good = 0  # batches since memory ran out
        self._virtual_time = 0.0
        self._background_time = 0.0  # virtual time within the low lane
        self._background_start = 0.0  # from when on the next of the low lane counts, in virtual time

    def __len__(self) -> int:
        return len(self._waiting)

    def has_room(self, num_tokens: int) -> bool:
        return self.queued_tokens + num_tokens <= self.max_queue_tokens

    def add_many(self, sequences: list[Sequence]) -> None:
        """Queue the sequences of one request; the caller has asked `has_room`."""
        if not self._background:
            self._background_start = max(self._background_start, self._virtual_time)
        tags = {self._foreground: self._virtual_time, self._background: self._background_time}
        for sequence in sorted(sequences, key=all_tokens):
            lane = self._lane_of(sequence)
            tags[lane] += sequence.num_tokens * WEIGHTS[sequence.priority]
            self._arrivals.append(sequence)
            self._waiting[sequence] = lane.push(sequence, tags[lane])
            self.queued_tokens += sequence.num_tokens

    def next_batch(self, cost: Cost = all_tokens, *, is_between: bool = False) -> tuple[list[Sequence], list[Sequence]]:
        """The sequences to run now, and those dropped on the way because nobody wants them any more.

        A sequence longer than the budget runs alone. Those of the low lane fill up no batch that others wait for, and
        run in smaller ones as long as others come. Between the pieces of a long input a batch is small, so that both
        get on: what does not fit is passed over for as many turns as its tokens are worth, and inputs as long wait.
        """
        batch: list[Sequence] = []
        dropped: list[Sequence] = []
        passed: list[Waiting] = []
        most = budget = max(self.batch_tokens // BETWEEN_SHARE, 1) if is_between else self.batch_tokens
        num_tokens = 0
        while len(batch) < self.max_batch_sequences and num_tokens < most and len(passed) <= MOST_PASSED_OVER:
            head = self._head(is_oldest=not batch and not passed and self._is_turn_of_oldest(is_between))
            if head is None:
                break
            if head.sequence.is_cancelled:
                dropped.append(self._remove(head))
                continue
            if not _is_background(head.sequence):
                self._last_foreground = self._num_batches
            elif batch and not _is_background(batch[0]):
                break
            if not batch:
                most = self._budget_of(head.sequence, budget)
            tokens = cost(head.sequence)
            if num_tokens + tokens <= most or (not batch and self._may_exceed(head, tokens, most, passed, is_between)):
                num_tokens += tokens
                batch.append(self._take(head))
            elif is_between:
                head.lane.pass_over()
                passed.append(head)
            else:
                break
        for waiting in passed:
            waiting.lane.put_back(waiting)
        self._num_batches += bool(batch)
        return batch, dropped

    def _budget_of(self, first: Sequence, budget: int) -> int:
        """The tokens of a batch that begins with a sequence."""
        is_beside_others = len(self._foreground) > 0 or self._num_batches - self._last_foreground < YIELDS_FOR
        return max(budget // BACKGROUND_SHARE, 1) if _is_background(first) and is_beside_others else budget

    def drop_many(self, sequences: Iterable[Sequence]) -> list[Sequence]:
        """Make room: take out those that wait here."""
        found = [self._waiting[sequence] for sequence in sequences if sequence in self._waiting]
        return [self._remove(waiting) for waiting in found]

    def drop_all(self) -> list[Sequence]:
        return self.drop_many(list(self._waiting))

    def promote_many(self, sequences: Iterable[Sequence]) -> None:
        """Their priority has risen: they go on as if they came now, where that is sooner."""
        for sequence in sequences:
            waiting = self._waiting.get(sequence)
            if waiting is None:
                continue
            tag = self._virtual_time + sequence.num_tokens * WEIGHTS[sequence.priority]
            lane = self._lane_of(sequence)
            if lane is not waiting.lane or tag < waiting.tag:
                waiting.lane.remove(waiting)
                self._waiting[sequence] = lane.push(sequence, tag)

    def note_out_of_memory(self, num_tokens: int) -> None:
        """A batch of so many tokens did not fit the device's memory: make smaller ones for a while."""
        self.batch_tokens = max(min(self.batch_tokens, num_tokens) // 2, 1)
        self._num_good = 0

    def note_success(self) -> None:
        """A batch ran; after some, larger ones are tried again."""
        if self.batch_tokens < self.max_batch_tokens:
            self._num_good += 1
            if self._num_good == RAISED_AFTER:
                self.batch_tokens = min(self.batch_tokens * 2, self.max_batch_tokens)
                self._num_good = 0

    def _is_turn_of_oldest(self, is_between: bool) -> bool:
        """Every eighth batch; beside a long input not where the oldest is as long."""
        if self._num_batches % OLDEST_EVERY != OLDEST_EVERY - 1:
            return False
        oldest = self._oldest()
        return oldest is not None and (not is_between or oldest.sequence.num_tokens <= self.batch_tokens)

    def _may_exceed(self, waiting: Waiting, tokens: int, most: int, passed: list[Waiting], is_between: bool) -> bool:
        """May a sequence that is larger than a batch run all the same, alone?"""
        if not is_between:
            return True
        if tokens > self.batch_tokens:
            return False
        if self._is_turn_of_oldest(is_between) and waiting is self._oldest():
            return True
        waiting.turns += not passed
        return waiting.turns * most >= tokens

    def _head(self, *, is_oldest: bool) -> Waiting | None:
        """The next in turn: by tag, or by arrival."""
        if not self._waiting:
            self._virtual_time = self._background_time = self._background_start = 0.0
        if is_oldest:
            return self._oldest()
        first, second = self._foreground.head(), self._background.head()
        if first is None or second is None:
            return first or second
        return first if first.tag <= self._tag_of(second) else second

    def _oldest(self) -> Waiting | None:
        while self._arrivals and self._arrivals[0] not in self._waiting:
            self._arrivals.popleft()
        return self._waiting[self._arrivals[0]] if self._arrivals else None

    def _lane_of(self, sequence: Sequence) -> Lane:
        return self._background if _is_background(sequence) else self._foreground

    def _tag_of(self, waiting: Waiting) -> float:
        """Beside all others: the tag within its lane, but that the low lane is a single request."""
        if waiting.lane is self._foreground:
            return waiting.tag
        return self._background_start + waiting.sequence.num_tokens * WEIGHTS[Priority.LOW]

    def _take(self, waiting: Waiting) -> Sequence:
        """Out of the queue, to run. Whoever comes later is tagged behind it, but not behind one that still waits."""
        tag, next_ = self._tag_of(waiting), self._head(is_oldest=False)
        self._virtual_time = max(self._virtual_time, min(tag, self._tag_of(next_ or waiting)))
        if waiting.lane is self._background:
            self._background_start = tag
            first = self._background.head() or waiting
            self._background_time = max(self._background_time, min(waiting.tag, first.tag))
        return self._remove(waiting)

    def _remove(self, waiting: Waiting) -> Sequence:
        waiting.lane.remove(waiting)
        del self._waiting[waiting.sequence]
        self.queued_tokens -= waiting.sequence.num_tokens
        if len(self._arrivals) > 2 * len(self._waiting) + MOST_GONE:
            self._arrivals = deque(sequence for sequence in self._arrivals if sequence in self._waiting)
        return waiting.sequence
