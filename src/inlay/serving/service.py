"""The whole story of a request, from top to bottom.

Route it to a model → key each input → ask the cache for all at once → misses join one computation for each key → the
worker fills them → results go to the cache behind the reply → shape the outputs in the order of the inputs.
Knows nothing of dialects and nothing of torch. Lives on one event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from inlay.cache.tiers import Cache
from inlay.errors import InlayError, QueryTooLong, ShuttingDown
from inlay.requests import (
    EmbedOptions,
    EmbedRequest,
    EmbedResult,
    LongDocuments,
    PairsRequest,
    PairsResult,
    RankRequest,
    RankResult,
    Request,
    Result,
)
from inlay.serving.callers import guessed_tokens
from inlay.serving.chunks import halves_of, is_too_long, take_best
from inlay.serving.fallbacks import Fallbacks, check_wait
from inlay.serving.flights import Flights
from inlay.serving.items import (
    Input,
    check_fingerprint,
    check_options,
    check_query,
    is_entry_of,
    keys_of,
    make_inputs,
    make_many_pairs,
    make_pairs,
    pair_key_maker,
    take_entries,
)
from inlay.serving.results import errors_of, make_pairs_result, make_rank_result, make_result
from inlay.serving.router import Router
from inlay.serving.uses import Uses
from inlay.telemetry.tracing import Tracer
from inlay.types import Task, Worker

A = TypeVar("A")
R = TypeVar("R")
Q = TypeVar("Q", EmbedRequest, RankRequest, PairsRequest)
A_RESULT = TypeVar("A_RESULT", bound=Result)


class Asked(NamedTuple):
    """A request with its worker and its inputs."""

    worker: Worker
    request: EmbedRequest
    inputs: list[Input]

    @property
    def failed(self) -> list[Input]:
        return [given for given in self.inputs if given.error is not None]

    @property
    def shared(self) -> object:
        """What requests must have in common to be worked on together."""
        options = self.request.options
        own = (options.truncate, options.priority, options.read_cache, options.write_cache)
        return self.worker.spec.name, *own


def no_fallbacks(router: Router) -> Fallbacks:
    """No model answers for another."""
    return Fallbacks(router, {}, 0.0, is_default=False)


class Service:
    """Answers requests for the models it is given, each with its worker."""

    def __init__(
        self,
        workers: MutableMapping[str, Worker],
        cache: Cache,
        aliases: Mapping[str, str] | None = None,
        tracer: Tracer | None = None,
        fallbacks: Callable[[Router], Fallbacks] = no_fallbacks,
    ) -> None:
        self.workers = workers
        self.cache = cache
        self.flights = Flights(cache, tracer)
        self.uses = Uses()
        self.router = Router(workers, aliases)
        self._fallbacks = fallbacks(self.router)
        self._is_closed = False

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Outputs for all inputs, or the error of the first that has none; if asked, for those that have some."""
        return await self._spend(request, self._embed_alone)

    async def _embed_alone(self, request: EmbedRequest) -> EmbedResult:
        return _result_of(await self._embed(request, is_patient=request.options.skips_failed))

    async def embed_each(self, request: EmbedRequest, *, is_patient: bool = True) -> tuple[EmbedResult, list[Input]]:
        """Outputs of the good inputs, and the inputs that failed; the impatient stop waiting at the first."""
        asked = await self._embed(request, is_patient=is_patient)
        answered = [given for given in asked.inputs if given.is_answered]
        return make_result(asked.worker.spec, asked.request.options, answered), asked.failed

    async def embed_many(self, requests: Sequence[EmbedRequest]) -> list[EmbedResult | InlayError]:
        """What `embed` gives for each of several requests without deadlines, or raises; all are worked on together."""
        asked = [attempt(self._asked_of, request) for request in requests]
        groups: dict[object, list[Asked]] = {}
        for one in asked:
            if isinstance(one, Asked):
                groups.setdefault(one.shared, []).append(one)
        for group in groups.values():
            inputs = [given for one in group for given in one.inputs]
            await self._answer(group[0].worker, inputs, group[0].request, is_patient=True)
        return [attempt(_result_of, one) if isinstance(one, Asked) else one for one in asked]

    async def _embed(self, request: EmbedRequest, *, is_patient: bool) -> Asked:
        asked = self._asked_of(request)
        await self._answer(asked.worker, asked.inputs, asked.request, is_patient)
        return asked

    def _asked_of(self, request: EmbedRequest) -> Asked:
        self._refuse_closed()
        worker, request = self.router.route(request)
        check_fingerprint(worker.spec, request.options.expect_fingerprint)
        check_options(worker.spec, request.options)
        return Asked(worker, request, make_inputs(worker.spec, request))

    async def rank(self, request: RankRequest) -> RankResult:
        """Scores for all documents, or the error of the first that has none; if asked, for those that have one."""
        return await self._spend(request, self._rank)

    async def _rank(self, request: RankRequest) -> RankResult:
        self._refuse_closed()
        check_query(request)
        worker = self.router.ranker(self.router.resolve(request)[0], request.options.expect_fingerprint)
        check_fingerprint(worker.spec, request.options.expect_fingerprint)
        inputs = make_pairs(worker.spec, request)
        is_chunked = request.options.long_documents is LongDocuments.BEST_CHUNK
        skips_failed = request.options.skips_failed
        await self._answer(worker, inputs, request, is_patient=is_chunked or skips_failed)
        if is_chunked:
            await self._rank_parts(worker, [given for given in inputs if is_too_long(given)], request)
        for given in inputs:
            if isinstance(given.error, QueryTooLong):
                raise QueryTooLong(given.error.message, param="query")
            if given.error is not None and not skips_failed:
                raise given.error.for_input(given.index)
        answered = [given for given in inputs if given.error is None]
        return make_rank_result(worker.spec, answered, errors_of(inputs))

    async def score_pairs(self, request: PairsRequest) -> PairsResult:
        """A score for each pair: a reranker's, or of a model that embeds the cosine of their vectors."""
        return await self._spend(request, self._score_pairs)

    async def _score_pairs(self, request: PairsRequest) -> PairsResult:
        self._refuse_closed()
        worker = self.router.any(self.router.resolve(request)[0])
        if worker.spec.task is Task.EMBED:
            return await self._compare_pairs(request)
        check_fingerprint(worker.spec, request.options.expect_fingerprint)
        inputs = make_many_pairs(worker.spec, request)
        await self._answer(worker, inputs, request, is_patient=False)
        for given in inputs:
            if given.error is not None:
                raise given.error.for_input(given.index)
        return make_pairs_result(worker.spec, inputs)

    async def _compare_pairs(self, request: PairsRequest) -> PairsResult:
        asked = request.options
        options = EmbedOptions(
            normalize=True,
            truncate=asked.truncate,
            priority=asked.priority,
            read_cache=asked.read_cache,
            write_cache=asked.write_cache,
            expect_fingerprint=asked.expect_fingerprint,
        )
        texts = [text for pair in request.pairs for text in pair]
        whole = EmbedRequest(
            request.model, texts, options, request.deadline, request.departed, request.may_wait, request.rights
        )
        result = await self._embed_alone(whole)
        told = {name: getattr(result, name) for name in Result.__struct_fields__}
        scores = np.vecdot(result.vectors[::2], result.vectors[1::2])
        return PairsResult(**told, scores=scores, are_logits=False)

    async def _rank_parts(self, worker: Worker, documents: list[Input], request: RankRequest) -> None:
        """Score documents that were too long, part by part."""
        spec, maker = worker.spec, pair_key_maker(worker.spec, request)
        parts = {given: halves_of(given, spec, maker) for given in documents}
        while waiting := [part for own in parts.values() for part in own if not part.is_answered and not part.error]:
            await self._answer(worker, waiting, request, is_patient=True)
            for given, own in parts.items():
                halved = [halves_of(part, spec, maker) if is_too_long(part) else [part] for part in own]
                parts[given] = [part for half in halved for part in half]
        for given, own in parts.items():
            take_best(given, own)

    async def _spend(self, request: Q, act: Callable[[Q], Awaitable[A_RESULT]]) -> A_RESULT:
        """Answer a request, by another model where that is allowed, and count it as who asks has it."""
        if request.rights is None:
            return await self._fallbacks.answer(request, act)
        with request.rights.spending(guessed_tokens(request, self._longest())) as spent:
            result = await self._fallbacks.answer(request, act)
            spent.num_tokens = result.num_tokens
            return result

    def _longest(self) -> int:
        """Tokens of the longest input that any model takes."""
        return max(worker.spec.max_tokens for worker in self.workers.values())

    def _refuse_closed(self) -> None:
        if self._is_closed:
            raise ShuttingDown("the server is shutting down: try another one", retry_after=1.0)

    async def _answer(self, worker: Worker, inputs: list[Input], request: Request, is_patient: bool) -> None:
        """Fill the good inputs from the cache and the worker; the impatient do nothing where one is bad."""
        good = [given for given in inputs if given.error is None]
        if not is_patient and len(good) < len(inputs):
            return
        with self.uses.of(worker):
            missing = await self._ask_cache(worker, request, good)
            if missing and request.may_wait is not None:
                check_wait(worker, request.may_wait)
            await self.flights.compute_many(worker, missing, request, is_patient)

    async def _ask_cache(self, worker: Worker, request: Request, inputs: list[Input]) -> list[Input]:
        """The inputs that no cache answers whole."""
        if not request.options.read_cache:
            return inputs
        found = await self.cache.get_many(keys_of(inputs), is_entry_of(worker.spec))
        if not found:
            return inputs
        max_tokens = worker.spec.max_tokens
        return [given for given in inputs if not take_entries(given, found, max_tokens)]

    async def close(self) -> bool:
        """Refuse what comes, wait for results on their way to the cache, and close it; False if it does not end."""
        self._is_closed = True
        await self.flights.finish()
        return await self.cache.close()


def _result_of(asked: Asked) -> EmbedResult:
    """Outputs for all inputs, or the error of the first that has none; if asked, for those that have some."""
    spec, options, failed = asked.worker.spec, asked.request.options, asked.failed
    for given in () if options.skips_failed else failed:
        if given.error is not None:
            raise given.error.for_input(given.index)
    return make_result(spec, options, [given for given in asked.inputs if given.is_answered], errors_of(failed))


def attempt(make: Callable[[A], R], given: A) -> R | InlayError:
    """What is made of something, or the error that it raises."""
    try:
        return make(given)
    except InlayError as error:
        return error
