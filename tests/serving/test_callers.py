"""A key's tokens are spent once, come back with time, and are the same however many requests there are at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.errors import Cancelled, DeadlineExceeded, Forbidden, QuotaExceeded
from inlay.requests import EmbedRequest, PairsRequest, RankRequest
from inlay.serving import callers as module
from inlay.serving.callers import Caller, Key, guessed_tokens
from inlay.types import Priority


class Clock:
    """Stands still unless it is moved."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def spend(caller: Caller, num_tokens: int, expected: int = 0) -> None:
    with caller.spending(expected) as spent:
        spent.num_tokens = num_tokens


def test_tokens_that_are_spent_come_back_with_time(clock: Clock) -> None:
    caller = Caller(Key("k", tokens_per_minute=600))
    spend(caller, 700)  # how many they are is known afterwards
    with pytest.raises(QuotaExceeded, match="600 tokens a minute") as caught:
        spend(caller, 1)
    assert caught.value.retry_after == pytest.approx(10.1)
    clock.now = 10.2
    spend(caller, 1)
    assert (caller.num_requests, caller.num_refused, caller.num_tokens) == (2, 1, 701)
    clock.now = 10_000
    assert caller.remaining() == (600, 600, 0)


def test_requests_at_the_same_time_do_not_get_more_than_one_after_the_other(clock: Clock) -> None:
    caller = Caller(Key("k", tokens_per_minute=100))
    with caller.spending(60), caller.spending(60), pytest.raises(QuotaExceeded):
        spend(caller, 1)


def test_what_fails_costs_nothing(clock: Clock) -> None:
    caller = Caller(Key("k", tokens_per_minute=100))
    with pytest.raises(ValueError, match="failed"), caller.spending(90):
        raise ValueError("failed")
    assert caller.remaining() == (100, 100, 0)
    assert (caller.num_requests, caller.num_tokens) == (0, 0)


@pytest.mark.parametrize("error", [Cancelled("gone"), DeadlineExceeded("late")])
def test_what_is_given_up_costs_what_was_guessed(clock: Clock, error: Exception) -> None:
    caller = Caller(Key("k", tokens_per_minute=100))
    with pytest.raises(type(error)), caller.spending(90):
        raise error
    remaining = caller.remaining()
    assert remaining is not None
    assert (remaining[1], caller.num_tokens) == (10, 90)


def test_several_processes_share_a_quota(clock: Clock) -> None:
    caller = Caller(Key("k", tokens_per_minute=100), share=0.25)
    assert caller.remaining() == (25, 25, 0)


def test_without_a_quota_there_is_no_end(clock: Clock) -> None:
    caller = Caller(Key("k"))
    for _ in range(3):
        spend(caller, 1 << 40)
    assert caller.remaining() is None
    assert not caller.is_limited
    assert caller.num_tokens == 3 << 40


def test_a_key_uses_its_own_models() -> None:
    caller = Caller(Key("k", models=frozenset({"b", "a"})))
    caller.check_model("a")
    with pytest.raises(Forbidden, match="it may use: a, b"):
        caller.check_model("c")
    assert caller.is_limited


@pytest.mark.parametrize("highest", Priority)
@pytest.mark.parametrize("asked", Priority)
def test_nothing_is_more_urgent_than_the_key_may_be(highest: Priority, asked: Priority) -> None:
    got = Caller(Key("k", priority=highest)).highest(asked)
    assert not got.is_above(highest)
    assert got in (asked, highest)
    assert not got.is_above(asked)


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_a_guess_grows_with_the_text(texts: list[str]) -> None:
    guess = guessed_tokens(EmbedRequest("m", texts), 512)
    assert guess >= len(texts)
    assert guessed_tokens(EmbedRequest("m", [*texts, "more"]), 512) > guess
    assert guessed_tokens(RankRequest("m", "query", texts), 512) > guess
    assert guessed_tokens(PairsRequest("m", [(text, text) for text in texts]), 512) == 2 * guess


def test_a_guess_is_no_more_than_a_model_takes_and_no_less_for_other_scripts() -> None:
    assert guessed_tokens(EmbedRequest("m", ["x" * 40_000, "y" * 40]), 256) == 256 + 11
    assert guessed_tokens(EmbedRequest("m", [[1, 2, 3]]), 512) == 3
    assert guessed_tokens(EmbedRequest("m", ["文" * 200]), 512) == 201
