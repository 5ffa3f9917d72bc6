"""Answers the lines of jobs in the words of their endpoint: what a request with the same body would be answered.

In: bodies. Out: for each its reply, with what it took. Lines of texts are worked on together, in the low lane; each
has its own reply, or its own error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
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
# Headers that lines go without: when their work ran is nobody's concern.
UNTOLD = frozenset({b"x-inlay-queue-ms", b"x-inlay-model-ms", b"x-inlay-cache"})
YIELD_EVERY = 64  # lines, after which others may use the event loop


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

    async def answer_many(self, endpoint: str, bodies: Sequence[bytes]) -> list[LineReply]:
        """See the module; nothing is raised for a line."""
        own = self._endpoints[endpoint]
        read: list[tuple[Any, Asked] | InlayError] = []
        for place, body in enumerate(bodies):
            read.append(attempt(own.read, body))
            await _let_others(place)
        results = await self._results_of([one if isinstance(one, InlayError) else one[1] for one in read])
        replies = []
        for place, (one, result) in enumerate(zip(read, results, strict=True)):
            if isinstance(result, Result):
                self._metrics.count_result(result)
            replies.append(own.reply(None if isinstance(one, InlayError) else one[0], result))
            await _let_others(place)
        return replies

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
        return call, replace(request, options=replace(request.options, priority=Priority.LOW, fallback=False))

    def reply(self, call: msgspec.Struct | None, result: Result | InlayError) -> LineReply:
        if isinstance(result, InlayError):
            error = self._dialect.in_own_words(result)
            refusal = refuse(error, self._dialect.render_error)
            return LineReply(refusal.status, refusal.body, error=error)
        rendered = self._dialect.render(result, call)
        headers = {name.decode(): value.decode() for name, value in result_headers(result) if name not in UNTOLD}
        return LineReply(rendered.status, rendered.body, result.num_tokens, result.cached_tokens, headers)


async def _let_others(place: int) -> None:
    if place % YIELD_EVERY == YIELD_EVERY - 1:
        await asyncio.sleep(0)
