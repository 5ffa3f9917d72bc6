"""Properties of the scheduler: bounded batches, nothing lost, nothing starved, fair between requests."""

from __future__ import annotations

import random
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.engine import scheduler as module
from inlay.engine.batch import Sequence
from inlay.engine.scheduler import (
    BACKGROUND_SHARE,
    BETWEEN_SHARE,
    OLDEST_EVERY,
    RAISED_AFTER,
    WEIGHTS,
    YIELDS_FOR,
    Scheduler,
)
from inlay.types import Priority, Truncate, Work


def make(num_tokens: int, priority: Priority = Priority.NORMAL) -> Sequence:
    work = Work(0, "", Truncate.NONE, 0, priority=priority)
    return Sequence(work, lambda answers: None, 0.0, priority, np.zeros(num_tokens, dtype=np.int64))


def drain(scheduler: Scheduler) -> list[list[Sequence]]:
    batches = []
    while len(scheduler):
        batch, _ = scheduler.next_batch()
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
        scheduler.next_batch()
    query = make(length)
    scheduler.add_many([query])
    batch, _ = scheduler.next_batch()
    assert query in batch


def test_under_any_overload_the_oldest_runs_within_eight_batches() -> None:
    scheduler = Scheduler(64, 512, 1 << 30)
    document = make(500, Priority.LOW)
    scheduler.add_many([document])
    batches = []
    for _ in range(OLDEST_EVERY):
        for _ in range(4):  # twice what the device can take: the queue of queries only grows
            scheduler.add_many([make(32, Priority.HIGH)])
        batches.append(scheduler.next_batch()[0])
    assert document in batches[-1]
    assert document not in batches[0]


@settings(max_examples=30)
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
        missing -= set(map(id, scheduler.next_batch()[0]))
    assert not missing


def test_priorities_are_shares_not_absolutes() -> None:
    scheduler = Scheduler(10, 512, 1 << 30)
    low = [make(10, Priority.LOW) for _ in range(100)]
    high = [make(10, Priority.HIGH) for _ in range(100)]
    scheduler.add_many(low)
    scheduler.add_many(high)
    first = [sequence for _ in range(66) for sequence in scheduler.next_batch()[0]]
    counts = [sum(sequence.priority is priority for sequence in first) for priority in Priority]
    assert counts[0] >= 55
    assert counts[2] >= 1


def test_what_nobody_wants_is_dropped_and_frees_its_room() -> None:
    scheduler = Scheduler(100, 10, 60)
    sequences = [make(20) for _ in range(3)]
    scheduler.add_many(sequences)
    assert not scheduler.has_room(1)
    assert scheduler.drop_many([sequences[1], make(1)]) == [sequences[1]]
    assert scheduler.has_room(20)
    sequences[0].is_cancelled = True
    batch, dropped = scheduler.next_batch()
    assert (batch, dropped) == ([sequences[2]], [sequences[0]])
    assert scheduler.queued_tokens == 0


def test_a_lone_input_gets_its_share_under_a_stream_of_lone_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits with n others gets a share of 1 / (n + 1) of the tokens, without help of the oldest's turn."""
    monkeypatch.setattr(module, "OLDEST_EVERY", 1 << 30)
    scheduler = Scheduler(16, 1, 1 << 30)
    for _ in range(5):
        scheduler.add_many([make(10)])
    document = make(500)
    scheduler.add_many([document])
    tokens = 0
    while True:
        ((ran,), _) = scheduler.next_batch()
        if ran is document:
            break
        tokens += ran.num_tokens
        assert tokens <= 5 * 500 + 100, "the long one waits for more than its share of the others"
        scheduler.add_many([make(10)])
    assert tokens >= 4 * 500, "the long one went before its turn"


@given(st.lists(st.integers(1, 200), min_size=1, max_size=7), st.integers(2, 12))
def test_streams_of_lone_inputs_share_the_device_by_priority_whatever_their_sizes(
    sizes: list[int], waiting: int
) -> None:
    """As many of each priority wait at any time: the tokens that run go by the weights (without the oldest's turn)."""
    scheduler = Scheduler(1, 1, 1 << 30)
    chance = random.Random(0)

    def ask(priority: Priority) -> None:
        scheduler.add_many([make(chance.choice(sizes), priority)])

    for _ in range(waiting):
        for priority in (Priority.HIGH, Priority.NORMAL):
            ask(priority)
    ran = dict.fromkeys(Priority, 0)
    with patch.object(module, "OLDEST_EVERY", 1 << 30):
        while ran[Priority.NORMAL] < 40 * waiting * max(sizes):
            ((sequence,), _) = scheduler.next_batch()
            ran[sequence.priority] += sequence.num_tokens
            ask(sequence.priority)
            assert sum(ran.values()) < 1_000 * waiting * max(sizes), "normal priority starves"
    share = ran[Priority.HIGH] / ran[Priority.NORMAL]
    assert 0.8 < share * WEIGHTS[Priority.HIGH] / WEIGHTS[Priority.NORMAL] < 1.25


def test_who_comes_later_is_not_ahead_of_an_equal_that_waits() -> None:
    scheduler = Scheduler(16, 1, 1 << 30)
    lined_up = [make(10) for _ in range(20)]
    for sequence in lined_up[:10]:
        scheduler.add_many([sequence])
    ran = []
    for sequence in lined_up[10:]:
        ran += scheduler.next_batch()[0]
        scheduler.add_many([sequence])
    ran += [sequence for batch in drain(scheduler) for sequence in batch]
    assert ran == lined_up


def test_beside_a_long_input_what_does_not_fit_lets_the_small_ones_pass() -> None:
    scheduler = Scheduler(80, 512, 1 << 30)
    large, other, small = make(12, Priority.HIGH), make(13, Priority.HIGH), [make(6), make(4)]
    for sequence in (large, other, *small):
        scheduler.add_many([sequence])
    batch, _ = scheduler.next_batch(is_between=True)
    assert sorted(sequence.num_tokens for sequence in batch) == [4, 6]


def test_beside_a_long_input_a_larger_one_runs_when_it_has_waited_for_what_it_is_worth() -> None:
    scheduler = Scheduler(80, 512, 1 << 30)
    most = 80 // BETWEEN_SHARE
    large, other = make(3 * most), make(500)
    scheduler.add_many([large])
    scheduler.add_many([other])
    batches = [scheduler.next_batch(is_between=True)[0] for _ in range(4)]
    assert batches == [[], [], [large], []]
    assert scheduler.next_batch() == ([other], [])


def test_beside_a_long_input_the_oldest_has_its_turn_too() -> None:
    scheduler = Scheduler(80, 512, 1 << 30)
    document = make(70, Priority.LOW)
    scheduler.add_many([document])
    ran = []
    for _ in range(OLDEST_EVERY):
        scheduler.add_many([make(5, Priority.HIGH) for _ in range(4)])
        ran += scheduler.next_batch(is_between=True)[0]
    assert document in ran


@given(requests, st.integers(1, 400), st.lists(st.booleans(), max_size=40))
def test_with_and_without_a_long_input_nothing_is_lost(
    lengths: list[list[int]], max_tokens: int, between: list[bool]
) -> None:
    scheduler = Scheduler(max_tokens, 30, 1 << 30)
    added = [make(length) for request in lengths for length in request]
    for sequence in added:
        scheduler.add_many([sequence])
    ran = [sequence for is_between in between for sequence in scheduler.next_batch(is_between=is_between)[0]]
    ran += [sequence for batch in drain(scheduler) for sequence in batch]
    assert sorted(map(id, ran)) == sorted(map(id, added))
    assert (scheduler.queued_tokens, len(scheduler)) == (0, 0)


def test_a_higher_priority_takes_effect_on_what_waits_already() -> None:
    scheduler = Scheduler(16, 1, 1 << 30)
    low = make(10, Priority.LOW)
    scheduler.add_many([low])
    normal = [make(10) for _ in range(5)]
    for sequence in normal:
        scheduler.add_many([sequence])
    low.priority = Priority.HIGH
    scheduler.promote_many([low, make(1)])
    ran = [sequence for batch in drain(scheduler) for sequence in batch]
    assert ran == [low, *normal]
    assert scheduler.queued_tokens == 0


def test_batches_shrink_when_memory_runs_out_and_grow_again_in_time() -> None:
    scheduler = Scheduler(100, 512, 1 << 30)
    scheduler.note_out_of_memory(80)
    assert scheduler.batch_tokens == 40
    scheduler.add_many([make(10) for _ in range(10)])
    assert len(scheduler.next_batch()[0]) == 4
    for _ in range(RAISED_AFTER):
        scheduler.note_success()
    assert scheduler.batch_tokens == 80
    for _ in range(RAISED_AFTER):
        scheduler.note_success()
    assert scheduler.batch_tokens == 100


def test_a_batch_counts_what_runs_and_not_what_was_kept_from_before() -> None:
    scheduler = Scheduler(100, 512, 1 << 30)
    scheduler.add_many([make(50) for _ in range(10)])
    batch, _ = scheduler.next_batch(lambda sequence: 20)
    assert len(batch) == 5


def test_what_has_gone_does_not_pile_up() -> None:
    scheduler = Scheduler(100, 10, 1 << 30)
    stays = make(1, Priority.LOW)
    scheduler.add_many([stays])
    for _ in range(5000):
        sequence = make(50)
        scheduler.add_many([sequence])
        scheduler.drop_many([sequence])
    assert len(scheduler._foreground._heap) < 1000
    assert len(scheduler._arrivals) < 1000
    assert scheduler.next_batch()[0] == [stays]


def test_the_low_lane_fills_up_no_batch_that_others_wait_for() -> None:
    scheduler = Scheduler(1000, 100, 1 << 30)
    scheduler.add_many([make(10, Priority.LOW) for _ in range(20)])
    query = make(5)
    scheduler.add_many([query])
    assert scheduler.next_batch()[0] == [query]
    scheduler.add_many([make(5, Priority.HIGH), make(5)])
    assert [one.num_tokens for one in scheduler.next_batch()[0]] == [5, 5]


def test_batches_of_the_low_lane_are_small_while_others_come_and_whole_again_after() -> None:
    scheduler = Scheduler(400, 1000, 1 << 30)
    scheduler.add_many([make(10, Priority.LOW) for _ in range(10_000)])
    assert len(scheduler.next_batch()[0]) == 40
    scheduler.add_many([make(5)])
    sizes = [len(scheduler.next_batch()[0]) for _ in range(YIELDS_FOR + 2)]
    assert sizes == [1, *[40 // BACKGROUND_SHARE] * (YIELDS_FOR - 1), 40, 40]


@given(
    st.lists(st.integers(8, 64), min_size=1, max_size=40), st.integers(0, 100), st.integers(1, 64), st.integers(1, 8)
)
def test_a_query_waits_for_one_batch_of_the_low_lane_at_most_however_many_wait_in_it(
    lengths: list[int], batches_before: int, length: int, max_sequences: int
) -> None:
    scheduler = Scheduler(1024, max_sequences, 1 << 30)
    for low in lengths:
        scheduler.add_many([make(low, Priority.LOW) for _ in range(100)])
    for _ in range(batches_before):
        scheduler.next_batch()
    query = make(length)
    scheduler.add_many([query])
    assert query in scheduler.next_batch()[0] + scheduler.next_batch()[0]


def test_the_oldest_of_the_low_lane_begins_a_small_batch_where_others_wait() -> None:
    scheduler = Scheduler(400, 1000, 1 << 30)
    scheduler.add_many([make(10, Priority.LOW) for _ in range(10_000)])
    for _ in range(OLDEST_EVERY - 1):
        assert len(scheduler.next_batch()[0]) == 40
    query = make(5)
    scheduler.add_many([query])
    batch, _ = scheduler.next_batch()
    assert batch[0].priority is Priority.LOW
    assert query in batch
    assert sum(sequence.num_tokens for sequence in batch) <= 400 // BACKGROUND_SHARE


def test_the_low_lane_has_its_share_beside_others_all_the_same() -> None:
    scheduler = Scheduler(100, 1000, 1 << 30)
    scheduler.add_many([make(10, Priority.LOW) for _ in range(1000)])
    scheduler.add_many([make(10) for _ in range(8000)])
    ran = [one.priority for _ in range(200) for one in scheduler.next_batch()[0]]
    share = ran.count(Priority.LOW) / len(ran)
    assert WEIGHTS[Priority.NORMAL] / WEIGHTS[Priority.LOW] * 0.5 < share < 0.25


def test_a_batch_of_the_low_lane_is_no_smaller_for_each_sequence_that_is_passed_over() -> None:
    scheduler = Scheduler(BETWEEN_SHARE * BACKGROUND_SHARE * 25, 100, 1 << 30)
    scheduler.add_many([make(5)])
    scheduler.next_batch(is_between=True)
    gone = make(15, Priority.LOW)
    gone.is_cancelled = True
    for tokens in (30, 30):
        scheduler.add_many([make(tokens, Priority.LOW)])
    scheduler.add_many([gone, make(20, Priority.LOW)])
    assert [one.num_tokens for one in scheduler.next_batch(is_between=True)[0]] == [20]
