"""The pipeline's one rule: whatever is cached, shared, cancelled or failing, each input gets its own vector."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from entries import dense, vector_in
from fakes import SPEC, WIDTH, FakeWorker, vector_of
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from inlay.cache.memory import MemoryTier
from inlay.cache.tiers import Cache
from inlay.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineError,
    InvalidInput,
    NotReady,
    Overloaded,
    ShuttingDown,
    UnknownModel,
)
from inlay.requests import EmbedOptions, EmbedRequest
from inlay.serving.items import make_inputs
from inlay.serving.service import Service
from inlay.serving.shaping import shape_vectors
from inlay.types import DENSE, Answer, Deliver, Failure, Priority, Truncate, Work


def make_service(worker: FakeWorker | None = None, *, cached: bool = True) -> Service:
    tiers = [MemoryTier(1 << 20)] if cached else []
    return Service({"fake": worker or FakeWorker()}, Cache(list(tiers)))


def request_of(texts: list[str], **options: object) -> EmbedRequest:
    return EmbedRequest("fake", texts, EmbedOptions(**options))  # type: ignore[arg-type]


def expected(texts: list[str]) -> np.ndarray:
    return np.array([vector_of(text) for text in texts])


async def until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.001)


texts_of_a_request = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(texts_of_a_request, min_size=1, max_size=6), st.sets(st.sampled_from("abcdefgh")), st.integers())
def test_any_mix_of_hits_misses_and_duplicates_equals_the_answer_without_a_cache(
    requests: list[list[str]], cached: set[str], seed: int
) -> None:
    async def story() -> None:
        worker = FakeWorker()
        worker.order = lambda works: random.Random(seed).sample(works, len(works))
        service = make_service(worker)
        if cached:
            await service.embed(request_of(sorted(cached)))
        answers = await asyncio.gather(*(service.embed(request_of(texts)) for texts in requests))
        for texts, answer in zip(requests, answers, strict=True):
            assert np.array_equal(answer.vectors, expected(texts))
            assert answer.num_tokens == len(texts)
            assert answer.num_hits >= sum(text in cached for text in texts)
        assert len(worker.computed) == len(set(worker.computed)), "a text was computed twice"
        assert len(service.flights.table) == 0

    asyncio.run(story())


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "c", "bad", "d"]), min_size=1, max_size=6), min_size=1, max_size=8),
    st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_failures_and_departures_of_some_leave_the_others_right(
    requests: list[list[str]], departing: list[bool]
) -> None:
    async def story() -> None:
        worker = FakeWorker()
        worker.gate.clear()
        service = make_service(worker)
        tasks = [asyncio.create_task(service.embed(request_of(texts))) for texts in requests]
        await asyncio.sleep(0)
        for task, is_leaving in zip(tasks, departing, strict=False):
            if is_leaving:
                task.cancel()
        await asyncio.sleep(0)
        worker.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        for texts, answer, is_leaving in zip(requests, answers, departing, strict=False):
            if is_leaving:
                assert isinstance(answer, asyncio.CancelledError)
            elif "bad" in texts:
                assert isinstance(answer, EngineError)
                assert answer.param == f"input[{texts.index('bad')}]"
            else:
                assert not isinstance(answer, BaseException)
                assert np.array_equal(answer.vectors, expected(texts))
        again = await service.embed(request_of(["a", "b", "c", "d"]))
        assert np.array_equal(again.vectors, expected(["a", "b", "c", "d"]))
        await until(lambda: len(service.flights.table) == 0)

    asyncio.run(story())


def test_200_requests_for_one_new_text_cause_one_computation_though_the_first_leaves() -> None:
    async def story() -> None:
        worker = FakeWorker()
        worker.gate.clear()
        service = make_service(worker)
        tasks = [asyncio.create_task(service.embed(request_of(["same"]))) for _ in range(200)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        worker.gate.set()
        answers = await asyncio.gather(*tasks[1:])
        assert worker.computed == ["same"]
        assert all(np.array_equal(answer.vectors, expected(["same"])) for answer in answers)

    asyncio.run(story())


def test_a_request_between_landing_and_writing_still_shares_the_result() -> None:
    async def story() -> None:
        worker = FakeWorker()
        service = make_service(worker)

        async def again() -> None:
            await service.embed(request_of(["x"]))

        original = service.cache.put_many

        async def slow_put(entries: object) -> None:
            await again()  # the flight has landed and the cache does not have it yet
            await original(entries)  # type: ignore[arg-type]

        service.cache.put_many = slow_put  # type: ignore[method-assign, assignment]
        await service.embed(request_of(["x"]))
        await asyncio.gather(*service.flights._writes)
        assert worker.computed == ["x"]

    asyncio.run(story())


def test_who_wants_it_computed_again_does_not_join_an_answer_of_before() -> None:
    async def story() -> None:
        worker = FakeWorker()
        service = make_service(worker)
        original = service.cache.put_many

        async def slow_put(entries: object) -> None:
            if len(worker.computed) == 1:  # the first has landed and the cache does not have it yet
                await service.embed(request_of(["x"], read_cache=False))
            await original(entries)  # type: ignore[arg-type]

        service.cache.put_many = slow_put  # type: ignore[method-assign, assignment]
        await service.embed(request_of(["x"]))
        await service.flights.finish()
        assert worker.computed == ["x", "x"]
        assert len(service.flights.table) == 0

    asyncio.run(story())


def test_when_the_last_one_leaves_the_work_is_cancelled_and_not_joined() -> None:
    async def story() -> None:
        worker = FakeWorker()
        worker.gate.clear()
        service = make_service(worker)
        first = asyncio.create_task(service.embed(request_of(["x"])))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0)
        assert worker.cancelled == {work.id for work in worker.submitted}
        second = asyncio.create_task(service.embed(request_of(["x"])))
        await asyncio.sleep(0)
        worker.gate.set()
        assert np.array_equal((await second).vectors, expected(["x"]))

    asyncio.run(story())


def test_the_second_time_is_a_hit_with_exact_usage() -> None:
    async def story() -> None:
        service = make_service()
        first = await service.embed(request_of(["abc", "de"]))
        await asyncio.gather(*service.flights._writes)
        second = await service.embed(request_of(["de", "fghi"]))
        third = await service.embed(request_of(["de"]))
        assert [answer.cache_status for answer in (first, second, third)] == ["miss", "partial", "hit"]
        assert [answer.num_tokens for answer in (first, second, third)] == [5, 6, 2]
        assert [answer.cached_tokens for answer in (first, second, third)] == [0, 2, 2]

    asyncio.run(story())


def test_one_kept_vector_serves_every_dimension_and_normalisation() -> None:
    async def story() -> None:
        worker = FakeWorker()
        service = make_service(worker)
        whole = await service.embed(request_of(["abc"]))
        cut = await service.embed(request_of(["abc"], dimensions=3))
        unit = await service.embed(request_of(["abc"], normalize=True))
        canonical = expected(["abc"])
        assert worker.computed == ["abc"]
        assert np.array_equal(whole.vectors, canonical)
        assert np.array_equal(cut.vectors, shape_vectors(canonical, 3, normalize=True))
        assert np.array_equal(unit.vectors, shape_vectors(canonical, None, normalize=True))

    asyncio.run(story())


def test_no_store_keeps_nothing_and_no_cache_reads_nothing() -> None:
    async def story() -> None:
        worker = FakeWorker()
        service = make_service(worker)
        await service.embed(request_of(["a"], write_cache=False))
        await service.embed(request_of(["a"]))
        await asyncio.gather(*service.flights._writes)
        assert worker.computed == ["a", "a"]
        answer = await service.embed(request_of(["a"], read_cache=False))
        assert worker.computed == ["a", "a", "a"]
        assert answer.cache_status == "miss"

    asyncio.run(story())


def test_failures_are_not_kept() -> None:
    async def story() -> None:
        service = make_service()
        for _ in range(2):
            with pytest.raises(EngineError, match=r"input\[1\] failed"):
                await service.embed(request_of(["a", "bad"]))
        assert len(service.cache.tiers[0]) <= 1  # type: ignore[arg-type]

    asyncio.run(story())


def test_the_patient_get_the_good_rows_and_the_failed_items() -> None:
    async def story() -> None:
        result, failed = await make_service().embed_each(request_of(["a", "bad", "", "b"]))
        assert np.array_equal(result.vectors, expected(["a", "b"]))
        assert [item.index for item in failed] == [1, 2]

    asyncio.run(story())


def test_prompts_and_instructions_go_before_the_text() -> None:
    async def story() -> None:
        worker = FakeWorker()
        service = make_service(worker)
        await service.embed(request_of(["x"], prompt_name="query"))
        await service.embed(request_of(["x"], prompt_name="document"))
        await service.embed(request_of(["x"], instruction="do"))
        await service.embed(EmbedRequest("fake:query", ["y"]))
        assert worker.computed == ["Q:x", "x", "I:do Q:x", "Q:y"]

    asyncio.run(story())


@pytest.mark.parametrize(
    ("request_", "error", "told"),
    [
        (EmbedRequest("other", ["a"]), UnknownModel, "these are: fake"),
        (request_of(["a"], prompt_name="haiku"), InvalidInput, "it has: document, query"),
        (request_of(["a"], dimensions=1), InvalidInput, "from 2 to 8"),
        (request_of(["a"], dimensions=9), InvalidInput, "from 2 to 8"),
        (request_of(["a", ""]), InvalidInput, r"input\[1\] is empty"),
        (request_of(["\ud800"]), InvalidInput, r"input\[0\] is not valid Unicode"),
        (request_of(["a"], instruction="x", prompt_name="document"), InvalidInput, "one of the two"),
        (EmbedRequest("fake:query", ["a"], EmbedOptions(prompt_name="document")), InvalidInput, "one of them"),
        (EmbedRequest("fake", [[1 << 70]]), InvalidInput, "out of range"),
        (EmbedRequest("fake", [[1]], EmbedOptions(prompt_name="query")), InvalidInput, "no prompt can be put"),
        (request_of(["a", ""], prompt_name="query"), InvalidInput, r"input\[1\] is empty"),
    ],
)
def test_mistakes_are_told_with_their_remedy(request_: EmbedRequest, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        asyncio.run(make_service().embed(request_))


def test_a_model_without_matryoshka_is_not_cut_unless_the_caller_insists() -> None:
    worker = FakeWorker(replace(SPEC, matryoshka=None))
    with pytest.raises(InvalidInput, match="not trained to be cut"):
        asyncio.run(make_service(worker).embed(request_of(["a"], dimensions=3)))
    result = asyncio.run(make_service(worker).embed(request_of(["a"], dimensions=3, allow_untrained_cut=True)))
    assert result.vectors.shape == (1, 3)
    assert asyncio.run(make_service(worker).embed(request_of(["a"], dimensions=WIDTH))).vectors.shape == (1, WIDTH)


def test_a_model_without_fingerprint_is_not_served_yet() -> None:
    worker = FakeWorker(replace(SPEC, fingerprint=""))
    with pytest.raises(NotReady, match="still loading"):
        asyncio.run(make_service(worker).embed(request_of(["a"])))


def test_another_requests_refusal_is_not_shared() -> None:
    """A verdict on a whole request that led a text is not the answer to one who only joined for the text."""

    async def story() -> None:
        worker = FakeWorker()
        worker.gate.clear()
        original = worker.submit_many

        def refuse_large(works: list[Work], deliver: Deliver) -> None:
            if len(works) == 1:
                original(works, deliver)
                return

            def refuse() -> None:
                worker.gate.wait(30)
                failure = Failure.of(Overloaded("too much", retry_after=1.0))
                deliver([Answer(work.id, failure=failure) for work in works])

            threading.Thread(target=refuse, daemon=True).start()

        worker.submit_many = refuse_large  # type: ignore[method-assign]
        service = make_service(worker)
        large = asyncio.create_task(service.embed(request_of(["same", "b", "c"])))
        await asyncio.sleep(0)
        small = asyncio.create_task(service.embed(request_of(["same"])))
        await asyncio.sleep(0)
        worker.gate.set()
        with pytest.raises(Overloaded):
            await large
        assert np.array_equal((await small).vectors, expected(["same"]))

    asyncio.run(story())


def test_a_request_ends_with_its_deadline_or_its_client() -> None:
    async def story() -> None:
        worker = FakeWorker()
        worker.gate.clear()
        service = make_service(worker)
        with pytest.raises(DeadlineExceeded):
            await service.embed(structs.replace(request_of(["a"]), deadline=time.monotonic() + 0.01))
        with pytest.raises(Cancelled):
            await service.embed(structs.replace(request_of(["b"]), departed=lambda: asyncio.sleep(0)))
        worker.gate.set()
        await until(lambda: len(service.flights.table) == 0)

    asyncio.run(story())


def test_a_worker_that_fails_to_take_work_loses_nothing() -> None:
    async def story() -> None:
        worker = FakeWorker()
        service = make_service(worker)
        original = worker.submit_many
        worker.submit_many = lambda works, deliver: 1 / 0  # type: ignore[method-assign, assignment]
        with pytest.raises(EngineError, match="ZeroDivisionError"):
            await service.embed(request_of(["a"]))
        worker.submit_many = original  # type: ignore[method-assign]
        assert np.array_equal((await service.embed(request_of(["a"]))).vectors, expected(["a"]))

    asyncio.run(story())


def test_a_closed_service_refuses() -> None:
    async def story() -> None:
        service = make_service()
        await service.close()
        with pytest.raises(ShuttingDown):
            await service.embed(request_of(["a"]))

    asyncio.run(story())


def test_a_request_that_joins_a_slower_one_takes_it_along() -> None:
    async def story() -> None:
        worker = FakeWorker()
        worker.gate.clear()
        service = make_service(worker)
        low = asyncio.create_task(service.embed(request_of(["same", "other"], priority=Priority.LOW)))
        await until(lambda: len(service.flights.table) == 2)
        high = asyncio.create_task(service.embed(request_of(["same"], priority=Priority.HIGH)))
        await until(lambda: bool(worker.promoted))
        (same,) = [work.id for work in worker.submitted if work.content == "same"]
        assert worker.promoted == [(same, Priority.HIGH)]
        worker.gate.set()
        await asyncio.gather(low, high)

    asyncio.run(story())


def test_the_worker_is_told_what_nobody_waits_for_any_more() -> None:
    async def story() -> None:
        worker = FakeWorker()
        worker.gate.clear()
        service = make_service(worker)
        leaving = asyncio.create_task(service.embed(request_of(["alone", "shared"])))
        staying = asyncio.create_task(service.embed(request_of(["shared"])))
        await until(lambda: len(service.flights.table) == 2)
        leaving.cancel()
        await until(lambda: bool(worker.cancelled))
        assert [work.content for work in worker.submitted if work.id in worker.cancelled] == ["alone"]
        worker.gate.set()
        await staying

    asyncio.run(story())


class CuttingWorker(FakeWorker):
    """Cuts texts of over ten characters."""

    def _answer(self, works: list[Work], deliver: Deliver) -> None:
        def deliver_cut(answers: list[Answer]) -> None:
            contents = {work.id: work.content for work in works}
            deliver([structs.replace(answer, is_truncated=len(contents[answer.id]) > 10) for answer in answers])

        super()._answer(works, deliver_cut)


@pytest.mark.parametrize("first", list(Truncate))
@pytest.mark.parametrize("second", list(Truncate))
def test_what_was_not_cut_is_computed_once_however_cutting_is_asked_for(first: Truncate, second: Truncate) -> None:
    async def story() -> None:
        worker = CuttingWorker()
        service = make_service(worker)
        await service.embed(request_of(["short"], truncate=first))
        await until(lambda: not service.flights._writes)
        again = await service.embed(request_of(["short"], truncate=second))
        assert (again.num_hits, worker.computed) == (1, ["short"])

    asyncio.run(story())


def test_a_cut_vector_is_a_hit_for_the_same_cut_alone() -> None:
    async def story() -> None:
        worker = CuttingWorker()
        service = make_service(worker)
        long = "a text that is cut"
        await service.embed(request_of([long], truncate=Truncate.END))
        await until(lambda: not service.flights._writes)
        again = await service.embed(request_of([long], truncate=Truncate.END))
        assert (again.num_hits, again.truncated) == (1, [0])
        assert (await service.embed(request_of([long], truncate=Truncate.START))).num_hits == 0
        assert (await service.embed(request_of([long]))).num_hits == 0

    asyncio.run(story())


def test_a_vector_of_more_tokens_than_this_server_takes_is_no_hit() -> None:
    async def story() -> None:
        service = make_service()
        (one,) = make_inputs(SPEC, request_of(["long elsewhere"]))
        await service.cache.put_many({one.keys[DENSE].whole: dense(vector_of("x"), SPEC.max_tokens + 1, False)})
        assert (await service.embed(request_of(["long elsewhere"]))).num_hits == 0

    asyncio.run(story())


def test_an_entry_of_another_width_is_a_miss_that_is_counted_and_mended() -> None:
    async def story() -> None:
        worker = FakeWorker()
        below = MemoryTier(1 << 20)
        cache = Cache([MemoryTier(1 << 20), below])
        service = Service({"fake": worker}, cache)
        (one,) = make_inputs(SPEC, request_of(["x"]))
        await below.put_many({one.keys[DENSE].whole: dense(np.ones(3, dtype=np.float32), 1, False)})
        assert (await service.embed(request_of(["x"]))).num_hits == 0
        await until(lambda: not service.flights._writes)
        assert (await service.embed(request_of(["x"]))).num_hits == 1
        key = one.keys[DENSE].whole
        assert len(vector_in((await below.get_many([key]))[key])) == WIDTH
        assert cache.stats[1].errors == 1
        assert worker.computed == ["x"]

    asyncio.run(story())
