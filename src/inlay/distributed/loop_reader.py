"""Reads a connection on the event loop that waits for what comes: an answer then wakes one thread, and not two.

In: a connection, and who takes its messages. Out: the messages, on the loop's thread. Whoever asked blocks meanwhile,
on a thread of his own, and goes on reading himself where the loop is closed first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Event

from inlay.distributed.connection import Connection
from inlay.distributed.messages import AnyMessage

LOOK_SECONDS = 0.5  # between two looks whether the loop still runs


def read_on_loop(loop: asyncio.AbstractEventLoop, connection: Connection, take: Callable[[AnyMessage], None]) -> bool:
    """Blocks until the connection has ended: True; or until the loop is closed: False."""
    has_ended = Event()

    def read() -> None:
        messages = connection.receive_many()
        for message in messages or ():
            take(message)
        if messages is None:
            loop.remove_reader(connection.fileno())
            has_ended.set()

    def begin() -> None:
        loop.add_reader(connection.fileno(), read)
        read()  # what came before

    try:
        loop.call_soon_threadsafe(begin)
    except RuntimeError:  # it was closed just now
        return False
    while not has_ended.wait(LOOK_SECONDS):
        if loop.is_closed():
            return False
    return True
