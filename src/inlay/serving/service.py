"""The whole story of a request, from top to bottom.

Route it to a model → key each input → ask the cache for all at once → misses join one computation for each key → the
worker fills them → results go to the cache behind the reply → shape the outputs in the order of the inputs.
Knows nothing of dialects and nothing of torch. Lives on one event loop.
"""

from __future__ import annotations

from collections.abc import Mapping

from inlay.cache.tiers import Cache
from inlay.errors import ShuttingDown
from inlay.serving.flights import Flights
from inlay.serving.items import Input, check_options, is_entry_of, keys_of, make_inputs, make_result, take_entries
from inlay.serving.router import Router
from inlay.types import EmbedRequest, EmbedResult, Worker


class Service:
    """Answers requests for the models it is given, each with its worker."""

    def __init__(self, workers: Mapping[str, Worker], cache: Cache) -> None:
        self.workers = workers
        self.cache = cache
        self.flights = Flights(cache)
        self._router = Router(workers)
        self._is_closed = False

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Outputs for all inputs, or the error of the first that has none."""
        result, failed = await self.embed_each(request, is_patient=False)
        for given in failed:
            if given.error is not None:
                raise given.error.for_input(given.index)
        return result

    async def embed_each(self, request: EmbedRequest, *, is_patient: bool = True) -> tuple[EmbedResult, list[Input]]:
        """Outputs of the good inputs, and the inputs that failed; the impatient stop waiting at the first."""
        if self._is_closed:
            raise ShuttingDown("the server is shutting down: try another one", retry_after=1.0)
        worker, request = self._router.route(request)
        check_options(worker.spec, request.options)
        inputs = make_inputs(worker.spec, request)
        failed = [given for given in inputs if given.error is not None]
        if is_patient or not failed:
            missing = await self._ask_cache(worker, request, [given for given in inputs if given.error is None])
            await self.flights.compute_many(worker, missing, request, is_patient)
            failed = [given for given in inputs if given.error is not None]
        answered = [given for given in inputs if given.is_answered]
        return make_result(worker.spec, request.options, answered), failed

    async def _ask_cache(self, worker: Worker, request: EmbedRequest, inputs: list[Input]) -> list[Input]:
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
