"""One computation for each key, however many requests want it.

The first request for a key leads; the others join. A flight belongs to nobody: when its leader goes, it
flies on for the others, and only when the last one has left is its work cancelled. Lives on one event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from inlay.cache.key import CacheKeys
from inlay.errors import InlayError
from inlay.telemetry.tracing import Trace
from inlay.types import Answer, Entry, Priority, Work

Listener = Callable[["Flight"], None]


@dataclass(slots=True, eq=False)
class Flight:
    """A computation under way: one piece of work, and the keys that its outputs will have."""

    work: Work
    keys: Mapping[str, CacheKeys]  # by kind of output
    is_stored: bool  # will the result go to the cache
    priority: Priority
    listeners: list[Listener] = field(default_factory=list)
    answer: Answer | None = None  # once it has landed
    error: InlayError | None = None  # of an answer that is a failure
    traces: list[Trace] = field(default_factory=list)  # of the requests that want it, where they are recorded

    def entries(self) -> dict[bytes, Entry]:
        """What a cache should keep of its answer."""
        answer = self.answer
        if answer is None:
            return {}
        entries: dict[bytes, Entry] = {}
        for kind, payload in answer.outputs.items():
            key = self.keys[kind].cut if answer.is_truncated else self.keys[kind].whole
            if key is not None:
                entries[key] = Entry(kind, payload, answer.num_tokens, answer.is_truncated)
        return entries


class FlightTable:
    """The flights under way, by the keys of their computations."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, Flight] = {}
        self._by_id: dict[int, Flight] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, key: bytes) -> Flight | None:
        return self._by_key.get(key)

    def lead(self, work: Work, keys: Mapping[str, CacheKeys], *, is_stored: bool) -> Flight:
        """A new flight for outputs that nobody computes yet."""
        flight = Flight(work, keys, is_stored, work.priority)
        self._by_id[work.id] = flight
        self._by_key.update((pair.of_work, flight) for pair in keys.values())
        return flight

    def leave(self, flight: Flight, listener: Listener) -> bool:
        """A request waits no longer. The last one out frees the keys: was it the last, so that work can stop?"""
        if flight.answer is not None:
            return False
        flight.listeners.remove(listener)
        if flight.listeners:
            return False
        self.forget(flight)
        return True

    def land(self, answer: Answer) -> Flight | None:
        """An answer is back from the worker: tell those who wait. None when it was not in flight.

        A landed flight can still be found, until the cache has its result and `forget` is called.
        """
        flight = self._by_id.pop(answer.id, None)
        if flight is not None:
            flight.answer = answer
            flight.error = None if answer.failure is None else answer.failure.error()
            for listener in flight.listeners:
                listener(flight)
        return flight

    def forget(self, flight: Flight) -> None:
        """The next request for the keys asks the cache, or leads a flight of its own."""
        for pair in flight.keys.values():
            if self._by_key.get(pair.of_work) is flight:
                del self._by_key[pair.of_work]
