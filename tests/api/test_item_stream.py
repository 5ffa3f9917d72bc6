"""Parts of a request, answered by a service that refuses at will."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlay.api import item_stream
from inlay.api.item_stream import AHEAD, PART_CHARACTERS, PART_INPUTS, ItemStream
from inlay.errors import InlayError, InvalidInput, Overloaded, TooLarge
from inlay.requests import EmbedRequest, EmbedResult

Perform = Callable[[EmbedRequest], Awaitable[EmbedResult]]


def result_of(request: EmbedRequest) -> EmbedResult:
    indices = [*range(request.first_index, request.first_index + len(request.inputs))]
    told = dict.fromkeys(EmbedResult.__struct_fields__)
    own = {"answered": indices, "item_tokens": [1] * len(indices), "failed": {}}
    return EmbedResult(**{**told, **own, "vectors": np.zeros((len(indices), 1), np.float32)})  # type: ignore[arg-type]


async def indices_of(texts: list[str], perform: Perform, seconds: float = 5.0) -> list[int]:
    stream: ItemStream[EmbedRequest, EmbedResult] = ItemStream(EmbedRequest(None, texts), perform, seconds)
    await stream.first()
    return [index async for result in stream.results() for index in result.answered]


@given(st.data())
def test_each_input_is_answered_once_whatever_is_refused_for_now(data: st.DataObject) -> None:
    texts = data.draw(st.lists(st.integers(1, PART_CHARACTERS + 9).map("x".__mul__), min_size=1, max_size=300))
    most_inputs = data.draw(st.integers(1, PART_INPUTS))
    is_refused = data.draw(st.lists(st.booleans(), max_size=20))
    under_way = 0

    async def perform(request: EmbedRequest) -> EmbedResult:
        nonlocal under_way
        under_way += 1
        assert under_way <= AHEAD
        try:
            await asyncio.sleep(0)
            inputs = request.inputs
            assert 1 <= len(inputs) <= PART_INPUTS
            assert len(inputs) == 1 or sum(map(len, inputs)) <= PART_CHARACTERS
            assert list(inputs) == texts[request.first_index : request.first_index + len(inputs)]
            if len(inputs) > most_inputs:
                raise TooLarge("too many at a time")
            if request.first_index > 0 and is_refused and is_refused.pop():
                raise Overloaded("later", retry_after=0.001)
            return result_of(request)
        finally:
            under_way -= 1

    assert sorted(asyncio.run(indices_of(texts, perform))) == [*range(len(texts))]


def test_the_first_part_is_refused_as_a_request_is() -> None:
    async def perform(request: EmbedRequest) -> EmbedResult:
        raise Overloaded("later", retry_after=0.001)

    with pytest.raises(Overloaded):
        asyncio.run(indices_of(["x"] * 500, perform))


def test_a_part_that_is_refused_until_its_time_is_over_ends_the_list_with_the_refusal() -> None:
    async def perform(request: EmbedRequest) -> EmbedResult:
        if request.first_index == 0:
            return result_of(request)
        raise Overloaded("later", retry_after=0.01)

    with pytest.raises(Overloaded):
        asyncio.run(indices_of(["x"] * 100, perform, seconds=0.1))


def test_an_input_that_is_too_large_alone_is_not_asked_again() -> None:
    async def perform(request: EmbedRequest) -> EmbedResult:
        if request.first_index + len(request.inputs) > 70:
            raise TooLarge("too large")
        return result_of(request)

    with pytest.raises(TooLarge):
        asyncio.run(indices_of(["x"] * 80, perform))


def test_nothing_is_under_way_once_a_list_is_closed() -> None:
    began: list[int] = []
    ended: list[int] = []

    async def perform(request: EmbedRequest) -> EmbedResult:
        if request.first_index < 20 * PART_INPUTS:
            return result_of(request)
        began.append(request.first_index)
        try:
            await asyncio.sleep(30)
        finally:
            ended.append(request.first_index)
        return result_of(request)

    async def story() -> None:
        stream: ItemStream[EmbedRequest, EmbedResult] = ItemStream(EmbedRequest(None, ["x"] * 5000), perform, 5.0)
        await stream.first()
        results = stream.results()
        for _ in range(20):
            await anext(results)
        await asyncio.sleep(0)
        stream.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await results.aclose()

    asyncio.run(story())
    assert len(began) > AHEAD / 2
    assert began == ended


def test_the_first_part_begins_alone_and_what_refuses_it_ends_all() -> None:
    began: list[int] = []

    async def perform(request: EmbedRequest) -> EmbedResult:
        began.append(request.first_index)
        await asyncio.sleep(0)
        raise InvalidInput("no")

    with pytest.raises(InlayError):
        asyncio.run(indices_of(["x"] * 5000, perform))
    assert began == [0]
    assert item_stream.LONGEST_PAUSE <= 1


def test_what_is_done_comes_before_the_error_that_ends_the_list() -> None:
    got: list[int] = []

    async def perform(request: EmbedRequest) -> EmbedResult:
        if request.first_index == 2 * PART_INPUTS:
            raise InvalidInput("no")
        return result_of(request)

    async def story() -> None:
        stream: ItemStream[EmbedRequest, EmbedResult] = ItemStream(EmbedRequest(None, ["x"] * 500), perform, 5.0)
        await stream.first()
        async for result in stream.results():
            got.extend(result.answered)

    with pytest.raises(InvalidInput):
        asyncio.run(story())
    assert sorted(got)[: 2 * PART_INPUTS] == [*range(2 * PART_INPUTS)]
    assert not {*range(2 * PART_INPUTS, 3 * PART_INPUTS)} & {*got}
