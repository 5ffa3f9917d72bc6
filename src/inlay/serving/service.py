"""The whole story of a request, from top to bottom.

Admit it → key each item → ask the cache for all at once → misses join one computation for each key → the
worker fills them → results go to the cache behind the reply → shape the vectors in the order of the inputs.
Knows nothing of dialects and nothing of torch. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from inlay.cache.tiers import Cache
from inlay.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineError,
    InvalidInput,
    NotReady,
    ShuttingDown,
    UnknownModel,
    WorkerDead,
    shorten,
)
from inlay.serving.flights import Flight, FlightTable
from inlay.serving.items import check_dimensions, copy_answer, make_items, make_result, take_entry
from inlay.telemetry.logs import get_logger
from inlay.types import Done, EmbedRequest, EmbedResult, Entry, Item, Worker

log = get_logger("service")


@dataclass(slots=True, eq=False)
class _Gathering:
    """One request's wait for its flights; done with all of them, or with the first that fails."""

    future: asyncio.Future[None]
    remaining: int
    is_patient: bool  # wait for all, whatever fails
    led: frozenset[Item]  # of the flights that this request leads
    has_failed: bool = False

    def __call__(self, flight: Flight) -> None:
        self.remaining -= 1
        if flight.item.error is not None and not self.is_patient and not self.is_foreign_refusal(flight):
            self.has_failed = True
        if (self.remaining == 0 or self.has_failed) and not self.future.done():
            self.future.set_result(None)

    def is_foreign_refusal(self, flight: Flight) -> bool:
        """Did another request lead the flight, and was it refused as a whole?"""
        error = flight.item.error
        return error is not None and error.is_of_request and flight.item not in self.led


class Service:
    """Answers requests for the models it is given, each with its worker."""

    def __init__(self, workers: Mapping[str, Worker], cache: Cache) -> None:
        self.workers = workers
        self.cache = cache
        self.is_closed = False
        self.flights = FlightTable()
        self._writes: set[asyncio.Task[None]] = set()

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Vectors for all inputs, or the error of the first that has none."""
        result, failed = await self.embed_each(request, is_patient=False)
        for item in failed:
            if item.error is not None:
                raise item.error.for_input(item.index)
        return result

    async def embed_each(self, request: EmbedRequest, *, is_patient: bool = True) -> tuple[EmbedResult, list[Item]]:
        """Vectors of the good inputs, and the items that failed; the impatient stop waiting at the first."""
        if self.is_closed:
            raise ShuttingDown("the server is shutting down: try another one", retry_after=1.0)
        worker, request = self.resolve(request)
        items = await self._answer(worker, request, is_patient=is_patient)
        result = make_result(worker.spec, request.options, [item for item in items if item.vector is not None])
        return result, [item for item in items if item.error is not None]

    def resolve(self, request: EmbedRequest) -> tuple[Worker, EmbedRequest]:
        """The worker of a model's name, which may end in `:prompt`; None means the first model."""
        name = request.model
        if name is None:
            name = next(iter(self.workers))
        if name not in self.workers and ":" in name:
            base, prompt = name.rsplit(":", 1)
            if base in self.workers:
                if request.options.prompt_name not in (None, prompt):
                    raise InvalidInput(
                        f"the model's name asks for prompt {prompt!r} and prompt_name for "
                        f"{request.options.prompt_name!r}: send one of them",
                        param="prompt_name",
                    )
                options = replace(request.options, prompt_name=prompt)
                return self.workers[base], replace(request, options=options)
        if name not in self.workers:
            served = ", ".join(self.workers)
            raise UnknownModel(f"model {shorten(name)!r} is not served here; these are: {served}", param="model")
        return self.workers[name], request

    async def close(self) -> bool:
        """Refuse what comes, wait for results on their way to the cache, and close it; False if it does not end."""
        self.is_closed = True
        await asyncio.gather(*self._writes)
        return await self.cache.close()

    async def _answer(self, worker: Worker, request: EmbedRequest, *, is_patient: bool) -> list[Item]:
        """The items of a request with their vectors or errors."""
        _check_loaded(worker)
        check_dimensions(worker.spec, request.options)
        items = make_items(worker.spec, request)
        asked = [item for item in items if item.error is None]
        if request.options.read_cache:
            keys = dict.fromkeys([item.key for item in asked])
            keys.update((item.cut_key, None) for item in asked if item.cut_key is not None)
            found = await self.cache.get_many(keys, worker.spec.width)
            asked = [item for item in asked if not (found and take_entry(item, found))]
        waiting: dict[bytes, list[Item]] = {}
        for item in asked:
            waiting.setdefault(item.work_key, []).append(item)
        has_failed = not is_patient and any(item.error is not None for item in items)
        while waiting and not has_failed:
            waiting = await self._compute(worker, waiting, request, is_patient)
        return items

    async def _compute(
        self, worker: Worker, waiting: dict[bytes, list[Item]], request: EmbedRequest, is_patient: bool
    ) -> dict[bytes, list[Item]]:
        """Have the missing items computed, each key once, and copy what comes back.

        Gives back what has to be asked for again: another request led it and was refused as a whole.
        """
        loop = asyncio.get_running_loop()
        flights, leads = self._join(worker, waiting, request.options.write_cache)
        flying = [flight for flight in flights.values() if not flight.is_landed]
        gathering = _Gathering(loop.create_future(), len(flying), is_patient, frozenset(leads))
        for flight in flying:
            flight.listeners.append(gathering)
        try:
            if leads:
                self._hand_over(worker, leads, _Receiver(loop, self))
            if flying:
                await _wait(gathering.future, request)
        finally:
            if left := [flight.item for flight in flying if self.flights.leave(flight, gathering)]:
                worker.cancel_many(left)
        again = {key: items for key, items in waiting.items() if gathering.is_foreign_refusal(flights[key])}
        for key in waiting.keys() - again.keys():
            if flights[key].is_landed:  # the others are not waited for any more, and may yet fail as cancelled
                for item in waiting[key]:
                    copy_answer(flights[key].item, item)
        return {} if gathering.has_failed else again

    def _hand_over(self, worker: Worker, leads: list[Item], done: Done) -> None:
        try:
            worker.embed(leads, done)
        except Exception as error:
            log.exception("a worker broke at the door", model=worker.spec.name)
            for item in leads:
                item.error = EngineError(f"was not taken by the worker ({type(error).__name__}): the log has more")
            self.land(leads)

    def _join(
        self, worker: Worker, waiting: dict[bytes, list[Item]], is_stored: bool
    ) -> tuple[dict[bytes, Flight], list[Item]]:
        """A flight for each key, and the items of those that are new. One under way hurries with who joins it."""
        flights: dict[bytes, Flight] = {}
        leads: list[Item] = []
        promoted: list[Item] = []
        for key, items in waiting.items():
            flight = self.flights.find(key)
            if flight is None:
                lead = replace(items[0])  # the flight outlives the request
                flight = self.flights.lead(lead, is_stored=is_stored)
                leads.append(lead)
            elif not flight.is_landed and items[0].priority.is_above(flight.item.priority):
                flight.item.priority = items[0].priority
                promoted.append(flight.item)
            flight.is_stored |= is_stored
            flights[key] = flight
        if promoted:
            worker.promote_many(promoted)
        return flights, leads

    def land(self, items: Iterable[Item]) -> None:
        """Items are back from a worker: wake those who wait, then write to the cache behind their replies."""
        stored: list[Flight] = []
        for item in items:
            flight = self.flights.land(item)
            if flight is None:
                continue
            if flight.is_stored and self.cache.tiers and item.vector is not None:
                stored.append(flight)
            else:
                self.flights.forget(flight)
        if stored:
            write = asyncio.get_running_loop().create_task(self._store(stored))
            self._writes.add(write)
            write.add_done_callback(self._writes.discard)

    async def _store(self, flights: list[Flight]) -> None:
        """Write to the cache; until that is done, whoever wants the same joins the landed flight."""
        entries: dict[bytes, Entry] = {}
        for flight in flights:
            item = flight.item
            if item.vector is not None and item.answer_key is not None:
                entries[item.answer_key] = Entry(item.vector, item.num_tokens, item.is_truncated)
        await self.cache.put_many(entries)
        for flight in flights:
            self.flights.forget(flight)


@dataclass(frozen=True, slots=True)
class _Receiver:
    """Brings items from a worker's thread to the service's event loop, one wake-up for each batch."""

    loop: asyncio.AbstractEventLoop
    service: Service

    def __call__(self, items: list[Item]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self.service.land, items)


def _check_loaded(worker: Worker) -> None:
    """Without a fingerprint there is no key, and without a key no answer."""
    if worker.spec.fingerprint:
        return
    failure = worker.health()
    if failure is not None:
        raise WorkerDead(f"model {worker.spec.name!r} is not served: {failure}")
    raise NotReady(f"model {worker.spec.name!r} is still loading: try again", retry_after=1.0)


async def _wait(arrival: asyncio.Future[None], request: EmbedRequest) -> None:
    """Until all is there, the client has gone, or the time is over; the latter two raise."""
    timeout = None if request.deadline is None else max(request.deadline - time.monotonic(), 0)
    departure = None if request.departed is None else asyncio.ensure_future(request.departed())
    wanted: set[asyncio.Future[object]] = {arrival}  # type: ignore[arg-type]
    if departure is not None:
        wanted.add(departure)
    try:
        await asyncio.wait(wanted, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if departure is not None:
            departure.cancel()
    if arrival.done():
        return
    if departure is not None and departure.done():
        raise Cancelled("the client has gone")
    raise DeadlineExceeded("the time for this request ran out: send fewer inputs, or raise --request-timeout")
