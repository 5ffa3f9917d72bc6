"""The inputs of one request, answered part by part: results come as they are done, in bounded memory.

In: a request, and what answers one. Out: results of parts, whose indices are those of the whole. Each part has its own
time. The first is answered or refused as a request is; later ones that are refused for now are asked again. All are of
the model that has answered the first, also where another takes its name meanwhile. Knows nothing of dialects and HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from typing import Generic, TypeVar

from msgspec.structs import replace

from inlay.errors import QuotaExceeded, Refused, TooLarge
from inlay.requests import EmbedRequest, RankRequest, Result

Q = TypeVar("Q", bound=EmbedRequest | RankRequest)
R = TypeVar("R", bound=Result)

PART_INPUTS, PART_CHARACTERS = 64, 4 << 10  # a part has at most so many, but at least one input
# Parts under way at most, so that the device finds work while others are sent. Parts that begin together end together,
# as the scheduler is fair between them: so the first begins alone, and with each that is done one more is under way.
AHEAD = 16
LONGEST_PAUSE = 1.0  # seconds before a part that was refused is asked again


class ItemStream(Generic[Q, R]):
    """See the module. Work begins at once; `close` ends it, wherever it is."""

    def __init__(self, request: Q, perform: Callable[[Q], Awaitable[R]], part_seconds: float) -> None:
        self._request = request
        self._perform = perform
        self._seconds = part_seconds
        self._parts = _parts_of(_inputs_of(request))
        self._under_way: deque[asyncio.Task[list[R]]] = deque()
        self._ahead = 1
        self._first = self._begin(*next(self._parts), is_first=True)

    async def first(self) -> R:
        """The result of the first part, or what refuses it, and then nothing is under way any more."""
        try:
            result = (await asyncio.shield(self._first))[0]
        except BaseException:
            self.close()
            raise
        expecting = replace(self._request.options, expect_fingerprint=result.fingerprint)
        self._request = replace(self._request, options=expecting)
        return result

    async def results(self) -> AsyncGenerator[R, None]:
        """All of them, as they are done; the error of a part that has none ends them, behind what is done."""
        while self._under_way:
            done, _ = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=_has_failed):
                self._under_way.remove(task)
                self._ahead = min(self._ahead + 1, AHEAD)
                self._begin_more()
                for result in task.result():
                    yield result

    def close(self) -> None:
        """End what is under way."""
        for task in self._under_way:
            task.cancel()

    def _begin_more(self) -> None:
        while len(self._under_way) < self._ahead and (part := next(self._parts, None)) is not None:
            self._begin(*part)

    def _begin(self, start: int, stop: int, *, is_first: bool = False) -> asyncio.Task[list[R]]:
        task = asyncio.ensure_future(self._answer(start, stop, is_first=is_first))
        task.add_done_callback(_has_failed)
        self._under_way.append(task)
        return task

    async def _answer(self, start: int, stop: int, *, is_first: bool) -> list[R]:
        """The result of a part, or of its halves where it is too much at a time."""
        deadline = time.monotonic() + self._seconds
        part = _part_of(self._request, start, stop, deadline)
        while True:
            try:
                return [await self._perform(part)]
            except Refused as error:
                pause = _pause_of(error)
                if is_first or time.monotonic() + pause > deadline:
                    raise
                await asyncio.sleep(pause)
            except TooLarge:
                if stop - start == 1:
                    raise
                break
        middle = (start + stop) // 2
        first = await self._answer(start, middle, is_first=is_first)
        return first + await self._answer(middle, stop, is_first=False)


def _pause_of(error: Refused) -> float:
    """A queue may have room sooner than was thought; a quota has not."""
    pause = error.retry_after or LONGEST_PAUSE
    return pause if isinstance(error, QuotaExceeded) else min(pause, LONGEST_PAUSE)


def _inputs_of(request: EmbedRequest | RankRequest) -> Sequence[str | list[int]]:
    return request.inputs if isinstance(request, EmbedRequest) else request.documents


def _parts_of(inputs: Sequence[str | list[int]]) -> Iterator[tuple[int, int]]:
    """Where each part begins and ends."""
    start = characters = 0
    for index, content in enumerate(inputs):
        characters += len(content)
        if index > start and (index - start == PART_INPUTS or characters > PART_CHARACTERS):
            yield start, index
            start, characters = index, len(content)
    yield start, len(inputs)


def _part_of(request: Q, start: int, stop: int, deadline: float) -> Q:
    field = "inputs" if isinstance(request, EmbedRequest) else "documents"
    part = {field: _inputs_of(request)[start:stop]}
    return replace(request, **part, first_index=start, deadline=deadline)


def _has_failed(task: asyncio.Task[list[R]]) -> bool:
    """Asked of every task that ends, as those behind the first failure are not waited for."""
    return task.cancelled() or task.exception() is not None
