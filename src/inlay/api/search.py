"""`POST /v1/search`: the nearest rows of a precomputed corpus.

In: a query, which the corpus's own model embeds, or a vector. Out: ids, scores and records. A corpus is
searched only with the model that made it, known by its fingerprint.
"""

from __future__ import annotations

import asyncio
import binascii
import time
from collections.abc import Coroutine, Mapping
from typing import Any

import numpy as np
import pybase64

from inlay.api.common_shapes import usage_of
from inlay.api.dialect_route import sooner
from inlay.api.exchange import Exchange
from inlay.api.json_route import Body
from inlay.api.replies import WARNING, Headers, Reply
from inlay.api.reranked_hits import rerank_hits
from inlay.api.search_schema import SearchRequest
from inlay.corpus.search.batcher import SearchBatcher
from inlay.corpus.search.hybrid import HybridQuery, weights_for
from inlay.corpus.search.searcher import Hit
from inlay.errors import (
    Cancelled,
    CorpusMismatch,
    DeadlineExceeded,
    InlayError,
    InvalidInput,
    UnknownCorpus,
    shorten,
)
from inlay.models.prompts import QUERY
from inlay.requests import EmbedOptions, EmbedRequest
from inlay.serving.service import Service
from inlay.types import DENSE, FloatArray, Priority

TOP_K = 10


class SearchRoute:
    """Searches the corpora that the server was started with."""

    def __init__(self, service: Service, corpora: Mapping[str, SearchBatcher]) -> None:
        self._service = service
        self._corpora = corpora

    async def handle(self, call: SearchRequest, _body: Body | None, exchange: Exchange, deadline: float) -> Reply:
        """One search, and a second look at what it found where that is asked for."""
        if call.rerank is not None and call.query is None:
            raise InvalidInput("rerank needs a query: an embedding alone cannot be reranked", param="query")
        deadline = sooner(deadline, exchange) or deadline
        name, batcher = self._resolve(call.corpus)
        if exchange.caller is not None:  # a vector that a client brings asks no model, and sees the same texts
            exchange.caller.check_model(self._name_of(name, batcher))
        if call.model is not None and call.model != (served := self._model_of(name, batcher)):
            raise InvalidInput(f"corpus {name!r} is searched with {served!r}: leave out model", param="model")
        query, num_tokens, cached_tokens = await self._query_of(call, name, batcher, exchange, deadline)
        top_k = TOP_K if call.top_k is None else call.top_k
        search = asyncio.ensure_future(_search(batcher, query, top_k, call))
        hits = await _in_time(search, deadline, exchange)
        if call.rerank is not None:
            hits, ranked = await rerank_hits(self._service, call.rerank, call.query or "", hits, exchange, deadline)
            if ranked is not None:
                num_tokens += ranked.num_tokens
                cached_tokens += ranked.cached_tokens
        return Reply.of_json(
            {
                "object": "list",
                "data": [_describe(hit, call.include_text is not False) for hit in hits],
                "corpus": name,
                "model": self._name_of(name, batcher),
                "usage": usage_of(num_tokens, cached_tokens),
            },
            headers=_warnings_of(batcher),
        )

    def _resolve(self, name: str | None) -> tuple[str, SearchBatcher]:
        served = ", ".join(self._corpora) or "none: start the server with --corpus NAME=DIR"
        if name is None:
            if len(self._corpora) != 1:
                raise InvalidInput(f"corpus is missing; these are served: {served}", param="corpus")
            name = next(iter(self._corpora))
        if name not in self._corpora:
            raise UnknownCorpus(f"corpus {shorten(name)!r} is not served; these are: {served}", param="corpus")
        return name, self._corpora[name]

    async def _query_of(
        self, call: SearchRequest, name: str, batcher: SearchBatcher, exchange: Exchange, deadline: float
    ) -> tuple[FloatArray | HybridQuery, int, int]:
        """The query's vector, or all its outputs, its tokens, and how many of them a cache had."""
        if call.hybrid is not None and call.embedding is not None:
            raise InvalidInput("hybrid needs a query: an embedding is one of its outputs alone", param="query")
        outputs: tuple[str, ...] = (DENSE,)
        if call.hybrid is not None:
            outputs = batcher.searcher.corpus.recipe.outputs
            weights = weights_for(outputs, call.hybrid.weights)
        if (call.query is None) == (call.embedding is None):
            raise InvalidInput("send a query or an embedding, one of the two", param="query")
        if call.embedding is not None:
            return _decode(call.embedding), 0, 0
        options = EmbedOptions(
            prompt_name=call.prompt_name or (None if call.instruction else QUERY),
            instruction=call.instruction,
            priority=Priority.HIGH if exchange.caller is None else exchange.caller.highest(Priority.HIGH),
            outputs=outputs,
            fallback=False,  # another model's vectors are of another space than the corpus
        )
        asked = EmbedRequest(
            model=self._model_of(name, batcher),
            inputs=[call.query or ""],
            options=options,
            deadline=deadline,
            departed=exchange.departed,
            rights=exchange.caller,
        )
        try:
            result = await self._service.embed(asked)
        except InlayError as error:
            if error.param != "input[0]":
                raise
            raise type(error)(error.message.replace("input[0]", "query", 1), param="query") from error
        tokens = (result.num_tokens, result.cached_tokens)
        if call.hybrid is None:
            return result.vectors[0], *tokens
        others = {kind: arrays[0] for kind, arrays in result.others.items()}
        return HybridQuery.of(result.vectors[0], others, weights, call.hybrid.candidates), *tokens

    def _name_of(self, name: str, batcher: SearchBatcher) -> str:
        """The model by the name that it is served under, or (with an embedding alone) the one it was made with."""
        try:
            return self._model_of(name, batcher)
        except CorpusMismatch:
            return batcher.searcher.corpus.recipe.model

    def _model_of(self, name: str, batcher: SearchBatcher) -> str:
        """The served model that made the corpus."""
        recipe = batcher.searcher.corpus.recipe
        specs = [worker.spec for worker in self._service.workers.values()]
        for fingerprint in (recipe.fingerprint, ""):  # "": still loading, which the service says
            for spec in specs:
                if spec.fingerprint == fingerprint:
                    return spec.name
        served = ", ".join(f"{spec.name} ({spec.fingerprint})" for spec in specs)
        raise CorpusMismatch(
            f"corpus {name!r} was made with {recipe.model} (fingerprint {recipe.fingerprint}), and served are "
            f"{served}: vectors of different models cannot be compared. Serve that model in that dtype, or precompute "
            "the corpus with one that is served",
            param="corpus",
        )


def _warnings_of(batcher: SearchBatcher) -> Headers:
    """That rows are missing which may have been better hits."""
    if not (number := len(batcher.searcher.broken_rows)):
        return []
    rows = "row of the corpus is" if number == 1 else "rows of the corpus are"
    return [(WARNING, f"{number} {rows} damaged and left out: rebuild it, and restart the server".encode())]


def _search(
    batcher: SearchBatcher, query: FloatArray | HybridQuery, top_k: int, call: SearchRequest
) -> Coroutine[Any, Any, list[Hit]]:
    """By the query's vector, or by all its outputs."""
    if isinstance(query, HybridQuery):
        return batcher.search_hybrid(query, top_k, call.filter, is_exact=bool(call.exact))
    return batcher.search(query, top_k, call.filter, is_exact=bool(call.exact))


async def _in_time(search: asyncio.Future[list[Hit]], deadline: float, exchange: Exchange) -> list[Hit]:
    """The hits; `DeadlineExceeded` or `Cancelled` where nobody can wait for them any longer."""
    departure = asyncio.ensure_future(exchange.departed())
    try:
        wanted: set[asyncio.Future[Any]] = {search, departure}
        seconds = max(deadline - time.monotonic(), 0)
        await asyncio.wait(wanted, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if search.done():
            return search.result()
        if departure.done():
            raise Cancelled("the client has gone")
        raise DeadlineExceeded("the time for this search ran out: ask for less, or give it longer (--request-timeout)")
    finally:
        search.cancel()
        departure.cancel()


def _describe(hit: Hit, includes_text: bool) -> dict[str, Any]:
    record = dict(hit.record) if includes_text else {"id": hit.record["id"]}
    scores = {} if hit.scores is None else {"scores": dict(hit.scores)}
    return {**record, "object": "search.hit", "score": hit.score, **scores}


def _decode(embedding: list[float] | str) -> FloatArray:
    if isinstance(embedding, list):
        return np.array(embedding, dtype=np.float32)
    try:
        return np.frombuffer(pybase64.b64decode(embedding, validate=True), dtype="<f4")
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"embedding is not base64 of float32: {error}", param="embedding") from error
