"""One computation for each key, however many requests want it.

The first request for a key leads; the others join. A flight belongs to nobody: when its leader goes, it
flies on for the others, and only when the last one has left is its item cancelled. Lives on one event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from inlay.types import Item

Listener = Callable[["Flight"], None]


@dataclass(slots=True, eq=False)
class Flight:
    """A computation under way. Its item is shared: requests copy from it."""

    item: Item
    is_stored: bool  # will the result go to the cache
    listeners: list[Listener] = field(default_factory=list)
    is_landed: bool = False


class FlightTable:
    """The flights under way, by key."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, Flight] = {}
        self._by_item: dict[Item, Flight] = {}

    def __len__(self) -> int:
        return len(self._by_item)

    def find(self, key: bytes) -> Flight | None:
        return self._by_key.get(key)

    def lead(self, item: Item, *, is_stored: bool) -> Flight:
        """A new flight for an item whose key nobody computes yet."""
        flight = Flight(item, is_stored)
        self._by_key[item.work_key] = self._by_item[item] = flight
        return flight

    def leave(self, flight: Flight, listener: Listener) -> bool:
        """A request waits no longer. The last one out cancels the item and frees the key: was it the last?"""
        if flight.is_landed:
            return False
        flight.listeners.remove(listener)
        if flight.listeners:
            return False
        flight.item.is_cancelled = True
        self.forget(flight)
        return True

    def land(self, item: Item) -> Flight | None:
        """The item is back from the worker: tell those who wait. None when it was not in flight.

        A landed flight can still be found, until the cache has its result and `forget` is called.
        """
        flight = self._by_item.pop(item, None)
        if flight is not None:
            flight.is_landed = True
            for listener in flight.listeners:
                listener(flight)
        return flight

    def forget(self, flight: Flight) -> None:
        """The next request for the key asks the cache, or leads a flight of its own."""
        if self._by_key.get(flight.item.work_key) is flight:
            del self._by_key[flight.item.work_key]
