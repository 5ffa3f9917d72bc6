"""Properties of the scheduler: bounded batches, nothing lost, nothing starved, fair between requests."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from inlay.engine.scheduler import OLDEST_EVERY, Scheduler
from inlay.types import Item, Priority, Sequence, Truncate


def make(num_tokens: int, priority: Priority = Priority.NORMAL) -> Sequence:
    item = Item(0, "", Truncate.NONE, 0, priority=priority)
    return Sequence(item, np.zeros(num_tokens, dtype=np.int64), 0.0, done=lambda items: None)


def wanted(sequence: Sequence) -> bool:
    return sequence.item.is_cancelled


def drain(scheduler: Scheduler) -> list[list[Sequence]]:
    batches = []
    while len(scheduler):
        batch, _ = scheduler.next_batch(wanted)
        batches.append(batch)
    return batches


requests = st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=20), max_size=12)


@given(requests, st.integers(1, 400), st.integers(1, 30))
def test_every_sequence_runs_once_in_batches_within_both_bounds(
    lengths: list[list[int]], max_tokens: int, max_sequences: int
) -> None:
    scheduler = Scheduler(max_tokens, max_sequences, 1 << 30)
    added = []
    for request in lengths:
        sequences = [make(length) for length in request]
        scheduler.add_many(sequences)
        added += sequences
    batches = drain(scheduler)
    ran = [sequence for batch in batches for sequence in batch]
    assert sorted(map(id, ran)) == sorted(map(id, added))
    for batch in batches:
        assert 1 <= len(batch) <= max_sequences
        assert sum(sequence.num_tokens for sequence in batch) <= max_tokens or len(batch) == 1
    assert scheduler.queued_tokens == 0


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30))
def test_within_a_request_the_shortest_runs_first(lengths: list[int]) -> None:
    scheduler = Scheduler(100, 4, 1 << 30)
    scheduler.add_many([make(length) for length in lengths])
    ran = [sequence.num_tokens for batch in drain(scheduler) for sequence in batch]
    assert ran == sorted(lengths)  # and as they are queued in this order, the oldest is the shortest


@given(st.integers(0, 200), st.integers(1, 64))
def test_a_short_query_overtakes_a_bulk_request_whenever_it_comes(batches_before: int, length: int) -> None:
    scheduler = Scheduler(256, 512, 1 << 30)
    scheduler.add_many([make(64) for _ in range(2000)])
    for _ in range(batches_before):
        scheduler.next_batch(wanted)
    query = make(length)
    scheduler.add_many([query])
    batch, _ = scheduler.next_batch(wanted)
    assert query in batch


def test_under_any_overload_the_oldest_runs_within_eight_batches() -> None:
    scheduler = Scheduler(64, 512, 1 << 30)
    document = make(500, Priority.LOW)
    scheduler.add_many([document])
    batches = []
    for _ in range(OLDEST_EVERY):
        for _ in range(4):  # twice what the device can take: the queue of queries only grows
            scheduler.add_many([make(32, Priority.HIGH)])
        batches.append(scheduler.next_batch(wanted)[0])
    assert document in batches[-1]
    assert document not in batches[0]


@given(requests, st.integers(1, 400))
def test_waiting_is_bounded_by_what_came_before_however_much_comes_after(
    lengths: list[list[int]], max_tokens: int
) -> None:
    scheduler = Scheduler(max_tokens, 30, 1 << 30)
    early = [make(length) for request in lengths for length in request]
    scheduler.add_many(early)
    missing = set(map(id, early))
    for _ in range(OLDEST_EVERY * (len(early) + 1)):
        scheduler.add_many([make(1, Priority.HIGH) for _ in range(40)])
        missing -= set(map(id, scheduler.next_batch(wanted)[0]))
    assert not missing


def test_priorities_are_shares_not_absolutes() -> None:
    scheduler = Scheduler(10, 512, 1 << 30)
    low = [make(10, Priority.LOW) for _ in range(100)]
    high = [make(10, Priority.HIGH) for _ in range(100)]
    scheduler.add_many(low)
    scheduler.add_many(high)
    first = [sequence for _ in range(66) for sequence in scheduler.next_batch(wanted)[0]]
    counts = [sum(sequence.item.priority is priority for sequence in first) for priority in Priority]
    assert counts[0] >= 55
    assert counts[2] >= 1


def test_what_nobody_wants_is_dropped_and_frees_its_room() -> None:
    scheduler = Scheduler(100, 10, 60)
    sequences = [make(20) for _ in range(3)]
    scheduler.add_many(sequences)
    assert not scheduler.has_room(1)
    sequences[1].item.is_cancelled = True
    assert scheduler.drop_unwanted(wanted) == [sequences[1]]
    assert scheduler.has_room(20)
    sequences[0].item.is_cancelled = True
    batch, dropped = scheduler.next_batch(wanted)
    assert (batch, dropped) == ([sequences[2]], [sequences[0]])
    assert scheduler.queued_tokens == 0
