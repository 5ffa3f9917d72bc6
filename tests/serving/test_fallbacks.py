"""Another model answers where one cannot, for requests that allow it: whole, marked, and kept under its own name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import replace as changed
from typing import Any, TypeVar

import pytest
from fakes import SPEC, UnwellWorker
from msgspec.structs import replace

from inlay.cache.memory import MemoryTier
from inlay.cache.tiers import Cache
from inlay.errors import ConfigError, DeadlineExceeded, InvalidInput, NotReady, Overloaded, UnknownModel, WorkerDead
from inlay.requests import EmbedOptions, EmbedRequest, Fallback
from inlay.serving.fallbacks import Fallbacks, parse_fallbacks
from inlay.serving.service import Service
from inlay.types import Task

T = TypeVar("T")
ALLOWED = EmbedOptions(fallback=True)


class Pair:
    """Two models; the second answers for the first."""

    def __init__(self, *, is_default: bool = False) -> None:
        self.first = UnwellWorker(changed(SPEC, name="first", fingerprint="1"))
        self.second = UnwellWorker(changed(SPEC, name="second", fingerprint="2"))
        workers = {"first": self.first, "second": self.second}

        def fallbacks(router: Any) -> Fallbacks:
            return Fallbacks(router, {"first": "second"}, 1.0, is_default=is_default)

        self.service = Service(workers, Cache([MemoryTier(1 << 20)]), {"alias": "first"}, None, fallbacks)

    async def ask(self, *texts: str, options: EmbedOptions = ALLOWED, seconds: float = 20, model: str = "first") -> Any:
        return await self.service.embed(EmbedRequest(model, list(texts), options, time.monotonic() + seconds))


def run(story: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(story)


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_a_model_that_can_answer_does(pair: Pair) -> None:
    result = run(pair.ask("a"))
    assert (result.model, result.fallback) == ("first", None)
    assert not pair.second.computed


@pytest.mark.parametrize("model", ["first", "alias", None])
def test_for_one_with_a_fault_the_other_answers_and_says_so(pair: Pair, model: str) -> None:
    pair.first.reason = "the device is lost"
    result = run(pair.ask("a", "b", model=model))
    assert (result.model, result.fingerprint) == ("second", "2")
    assert result.fallback == Fallback("first", WorkerDead.code)
    assert not pair.first.computed


def test_nothing_is_kept_under_the_name_of_the_one_that_was_asked(pair: Pair) -> None:
    async def story() -> None:
        pair.first.reason = "the device is lost"
        await pair.ask("a")
        pair.first.reason = None
        result = await pair.ask("a")
        assert (result.model, result.cache_status) == ("first", "miss")
        assert (await pair.ask("a", model="second")).cache_status == "hit"

    run(story())


def test_one_that_has_too_much_to_do_answers_what_its_cache_has(pair: Pair) -> None:
    async def story() -> None:
        await pair.ask("a")
        pair.first.be_flooded(1.1)
        assert (await pair.ask("a")).model == "first"
        result = await pair.ask("a", "b")
        assert result.fallback == Fallback("first", Overloaded.code)
        assert (result.model, result.num_hits) == ("second", 0), "all of it is of one model"
        pair.first.be_flooded(0.9)
        assert (await pair.ask("c")).model == "first"

    run(story())


def test_one_that_does_not_answer_in_time_leaves_the_other_half_of_it(pair: Pair) -> None:
    pair.first.gate.clear()
    began = time.monotonic()
    result = run(pair.ask("a", seconds=1))
    assert result.fallback == Fallback("first", DeadlineExceeded.code)
    assert time.monotonic() - began >= 0.5
    assert pair.first.cancelled, "nobody waits for it any more"
    pair.first.gate.set()


def test_one_that_is_not_ready_is_not_waited_for(pair: Pair) -> None:
    pair.first.is_ready = False
    assert run(pair.ask("a")).fallback == Fallback("first", NotReady.code)


@pytest.mark.parametrize(
    "options", [EmbedOptions(), EmbedOptions(fallback=False), EmbedOptions(fallback=True, expect_fingerprint="1")]
)
def test_who_does_not_allow_it_gets_the_error(pair: Pair, options: EmbedOptions) -> None:
    pair.first.gate.clear()
    with pytest.raises(DeadlineExceeded):
        run(pair.ask("a", options=options, seconds=0.2))
    assert not pair.second.submitted
    pair.first.gate.set()


def test_the_server_may_allow_it_for_all_who_do_not_say_otherwise() -> None:
    pair = Pair(is_default=True)
    pair.first.reason = "the device is lost"
    assert run(pair.ask("a", options=EmbedOptions())).model == "second"
    pair.first.gate.clear()
    with pytest.raises(DeadlineExceeded):
        run(pair.ask("a", options=EmbedOptions(fallback=False), seconds=0.2))
    pair.first.gate.set()


def test_what_is_wrong_with_the_request_is_wrong_with_any_model(pair: Pair) -> None:
    with pytest.raises(InvalidInput):
        run(pair.ask("a", options=replace(ALLOWED, dimensions=0)))
    with pytest.raises(UnknownModel):
        run(pair.ask("a", model="third"))
    assert not pair.second.submitted


def test_where_the_other_cannot_answer_the_first_ones_error_counts(pair: Pair) -> None:
    pair.first.be_flooded(7)
    pair.second.gate.clear()
    with pytest.raises(Overloaded) as caught:
        run(pair.ask("a", seconds=0.3))
    assert caught.value.retry_after == 7
    pair.second.gate.set()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("first", "write MODEL=OTHER"),
        ("first=first", "two models"),
        ("first=third", "'third' is not served; these are: first, second, ranker"),
        ("first=ranker", "embeds and the other ranks"),
    ],
)
def test_a_fallback_that_cannot_be_is_refused(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_fallbacks([given], {"first": Task.EMBED, "second": Task.EMBED, "ranker": Task.RANK})


def test_a_model_has_one_fallback() -> None:
    tasks = dict.fromkeys(("first", "second", "third"), Task.EMBED)
    assert parse_fallbacks(["first=second", "second=third"], tasks) == {"first": "second", "second": "third"}
    with pytest.raises(ConfigError, match="has one already"):
        parse_fallbacks(["first=second", "first=third"], tasks)
