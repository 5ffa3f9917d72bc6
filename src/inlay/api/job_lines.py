"""Answers the lines of jobs in the words of their endpoint: what a request with the same body would be answered.

In: bodies. Out: for each its reply, with what it took. Lines of texts are worked on together, in the low lane; each
has its own reply, or its own error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from msgspec.structs import replace

from inlay.api.decoding import BodyDecoder
from inlay.api.dialect_route import result_headers
from inlay.api.dialects.dialect import Dialect
from inlay.api.replies import refuse
from inlay.errors import InlayError
from inlay.jobs.answers import LineReply
from inlay.requests import EmbedRequest, RankRequest, Result
from inlay.serving.service import Service, attempt
from inlay.telemetry.metrics import Metrics
from inlay.types import Priority

Check = Callable[[Any], None]
Asked = EmbedRequest | RankRequest
# Headers that lines go without: when their work ran is nobody's concern, and all have one fingerprint.
UNTOLD = frozenset({b"x-inlay-queue-ms", b"x-inlay-model-ms", b"x-inlay-cache", b"x-inlay-fingerprint"})
# Lines that are read, or written, without a pause: with 16 the device got small batches, and all took longer.
GROUP = 1024


class JobLines:
    """The endpoints that lines may name, each with the dialect that reads them."""

    def __init__(
        self,
        dialects: Mapping[str, Dialect[Any, Any, Any]],
        checks: Mapping[type[Any], Check],
        service: Service,
        metrics: Metrics,
    ) -> None:
        self._endpoints = {path: _Endpoint(dialect, checks) for path, dialect in dialects.items()}
        self._service = service
        self._metrics = metrics
        self._working = asyncio.Lock()

    async def answer_many(self, endpoint: str, bodies: Sequence[bytes]) -> list[LineReply]:
        """See the module; nothing is raised for a line."""
        own = self._endpoints[endpoint]
        groups = [bodies[start : start + GROUP] for start in range(0, len(bodies), GROUP)]
        tasks = [asyncio.ensure_future(self._answer_group(own, group)) for group in groups]
        try:
            return [reply for replies in await asyncio.gather(*tasks) for reply in replies]
        finally:
            for task in tasks:
                task.cancel()

    async def _answer_group(self, own: _Endpoint, bodies: Sequence[bytes]) -> list[LineReply]:
        async with self._burst():
            read = [attempt(own.read, body) for body in bodies]
            asked = [one if isinstance(one, InlayError) else one[1] for one in read]
            asking = asyncio.ensure_future(self._results_of(asked))
            try:
                await asyncio.sleep(0)  # it goes on until it waits
            except asyncio.CancelledError:
                asking.cancel()
                raise
        results = await asking
        async with self._burst():
            for result in results:
                if isinstance(result, Result):
                    self._metrics.count_result(result)
            calls = [None if isinstance(one, InlayError) else one[0] for one in read]
            return [own.reply(call, result) for call, result in zip(calls, results, strict=True)]

    @asynccontextmanager
    async def _burst(self) -> AsyncIterator[None]:
        """One at a time, and as long a rest after it: the event loop and the device's processor are others', too."""
        async with self._working:
            began = time.perf_counter()
            yield
            await asyncio.sleep(time.perf_counter() - began)

    async def _results_of(self, asked: Sequence[Asked | InlayError]) -> list[Result | InlayError]:
        embeds = [one for one in asked if isinstance(one, EmbedRequest)]
        ranks = [one for one in asked if isinstance(one, RankRequest)]
        embedded = iter(await self._service.embed_many(embeds))
        ranked = iter(await asyncio.gather(*(self._rank(one) for one in ranks)))
        return [
            one if isinstance(one, InlayError) else next(embedded if isinstance(one, EmbedRequest) else ranked)
            for one in asked
        ]

    async def _rank(self, request: RankRequest) -> Result | InlayError:
        try:
            return await self._service.rank(request)
        except InlayError as error:
            return error


class _Endpoint:
    """One endpoint's words."""

    def __init__(self, dialect: Dialect[Any, Any, Any], checks: Mapping[type[Any], Check]) -> None:
        self._dialect = dialect
        self._decoder = BodyDecoder(dialect.request)
        self._checks = checks

    def read(self, body: bytes) -> tuple[Any, Asked]:
        """What a body is, and what it asks for."""
        call, _ = self._decoder.decode(body)
        request = self._dialect.parse(call)
        self._checks[type(request)](request)
        return call, replace(request, options=replace(request.options, priority=Priority.LOW))

    def reply(self, call: msgspec.Struct | None, result: Result | InlayError) -> LineReply:
        if isinstance(result, InlayError):
            error = result.renamed(self._dialect.names)
            refusal = refuse(error, self._dialect.render_error)
            return LineReply(refusal.status, refusal.body, error=error)
        rendered = self._dialect.render(result, call)
        headers = {name.decode(): value.decode() for name, value in result_headers(result) if name not in UNTOLD}
        return LineReply(rendered.status, rendered.body, result.num_tokens, result.cached_tokens, headers)
