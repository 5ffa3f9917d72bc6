"""Has computed what no cache holds: one computation a key, whoever asks, and its result into the cache.

In: inputs that wait for outputs. Out: the same inputs, answered. Work goes to the worker, its answers come back to
the event loop, wake those who wait, and are written to the cache behind their replies. Lives on one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

from inlay.cache.tiers import Cache
from inlay.errors import EngineError
from inlay.requests import Request
from inlay.serving.flight_table import Flight, FlightTable
from inlay.serving.flight_traces import record_batch, record_wait
from inlay.serving.items import Input, take_answer
from inlay.serving.waiting import Gathering
from inlay.telemetry.logs import get_logger
from inlay.telemetry.tracing import Tracer, recorded_trace
from inlay.types import Answer, Entry, Failure, Work, Worker

log = get_logger("service")


class Flights:
    """All computations of a service that are under way."""

    def __init__(self, cache: Cache, tracer: Tracer | None = None) -> None:
        self.table = FlightTable()
        self._cache = cache
        self._tracer = tracer
        self._ids = count()
        self._writes: set[asyncio.Task[None]] = set()

    async def compute_many(self, worker: Worker, inputs: list[Input], request: Request, is_patient: bool) -> None:
        """Fill what inputs miss; the impatient stop waiting at the first that fails."""
        waiting = inputs
        while waiting:
            waiting = await self._compute(worker, waiting, request, is_patient)

    async def finish(self) -> None:
        """Wait for results on their way to the cache."""
        await asyncio.gather(*self._writes)

    async def _compute(self, worker: Worker, inputs: list[Input], request: Request, is_patient: bool) -> list[Input]:
        """Gives back what has to be asked for again: another request led it and was refused as a whole."""
        flights, led = self._join(worker, inputs, request)
        flying = {flight: None for flight in flights.values() if flight.answer is None}  # each once
        gathering = Gathering(flying, led, is_patient=is_patient)
        began = time.monotonic()
        try:
            if led:
                self._submit(worker, led)
            await gathering.wait(request)
        finally:
            record_wait(flying, began, num_led=len(led))
            if left := [flight.work.id for flight in flying if self.table.leave(flight, gathering)]:
                worker.cancel_many(left)
        again: dict[Input, None] = {}
        for given in inputs:
            for flight in [flights[given.keys[kind].of_work] for kind in given.missing()]:
                if gathering.is_foreign_refusal(flight):
                    again[given] = None
                elif flight.answer is not None:  # the others are not waited for any more, and may yet be cancelled
                    take_answer(given, flight.answer, flight.error)
        return [] if gathering.has_failed else list(again)

    def _join(self, worker: Worker, inputs: list[Input], request: Request) -> tuple[dict[bytes, Flight], list[Flight]]:
        """A flight for each key, and those that are new. One under way hurries with who joins it."""
        options = request.options
        flights: dict[bytes, Flight] = {}
        led: list[Flight] = []
        promoted: list[Flight] = []
        for given in inputs:
            new = []
            for kind in given.missing():
                key = given.keys[kind].of_work
                flight = flights.get(key) or self.table.find(key)
                is_past = flight is not None and flight.answer is not None and not options.read_cache
                if flight is None or is_past:  # who wants it computed again takes no answer of before
                    new.append(kind)
                    continue
                flights[key] = flight
                flight.is_stored |= options.write_cache
                if flight.answer is None and options.priority.is_above(flight.priority):
                    flight.priority = options.priority
                    promoted.append(flight)
            if new:
                flight = self._lead(worker, given, new, request)
                flights.update((given.keys[kind].of_work, flight) for kind in new)
                led.append(flight)
        if (trace := recorded_trace()) is not None:
            for flight in {*flights.values()}:
                flight.traces.append(trace)
        if promoted:
            worker.promote_many([flight.work.id for flight in promoted], options.priority)
        return flights, led

    def _lead(self, worker: Worker, given: Input, kinds: list[str], request: Request) -> Flight:
        options = request.options
        work = Work(
            next(self._ids),
            given.content,
            options.truncate,
            worker.spec.max_tokens,
            given.prompt,
            options.priority,
            tuple(kinds),
        )
        keys = {kind: given.keys[kind] for kind in kinds}
        return self.table.lead(work, keys, is_stored=options.write_cache)

    def _submit(self, worker: Worker, led: list[Flight]) -> None:
        works = [flight.work for flight in led]
        try:
            worker.submit_many(works, _Receiver(asyncio.get_running_loop(), self))
        except Exception as error:
            log.exception("a worker failed to take work", model=worker.spec.name)
            failure = Failure.of(EngineError(f"was not taken by the worker ({type(error).__name__}): the log has more"))
            self.land_many([Answer(work.id, failure=failure) for work in works])

    def land_many(self, answers: Iterable[Answer]) -> None:
        """Answers are back from a worker: wake those who wait, then write to the cache behind their replies."""
        landed = [flight for answer in answers if (flight := self.table.land(answer)) is not None]
        if self._tracer is not None:
            record_batch(self._tracer, landed)
        stored: list[Flight] = []
        for flight in landed:
            if flight.is_stored and self._cache.tiers and flight.error is None:
                stored.append(flight)
            else:
                self.table.forget(flight)
        if stored:
            write = asyncio.get_running_loop().create_task(self._store(stored))
            self._writes.add(write)
            write.add_done_callback(self._writes.discard)

    async def _store(self, flights: list[Flight]) -> None:
        """Write to the cache; until that is done, whoever wants the same joins the landed flight."""
        entries: dict[bytes, Entry] = {}
        for flight in flights:
            entries |= flight.entries()
        try:
            await self._cache.put_many(entries)
        finally:
            for flight in flights:
                self.table.forget(flight)


@dataclass(frozen=True, slots=True)
class _Receiver:
    """Brings answers from a worker's thread to the service's event loop, one wake-up for each batch."""

    loop: asyncio.AbstractEventLoop
    flights: Flights

    def __call__(self, answers: list[Answer]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self.flights.land_many, answers)
