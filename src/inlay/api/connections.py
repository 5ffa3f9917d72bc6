"""All connections of a server, and the bounds that they share: how many, and how many bytes nobody reads.

In: connections as they come, rest, work and go. Out: those that have to go for others. Lives on one event loop;
knows nothing of HTTP.
"""

from __future__ import annotations

import resource
from collections import OrderedDict
from typing import Protocol

from inlay.telemetry.logs import Complaints, get_logger

log = get_logger("api")

MOST_CONNECTIONS = 4096  # unless asked otherwise, and where there are descriptors for them
RESERVED_DESCRIPTORS = 96  # for models, cache segments, Redis and corpora
FEWEST_CONNECTIONS = 16
MOST_UNREAD_BYTES = 256 << 20  # of replies that wait for their clients, of all connections


class Connection(Protocol):
    """What is known here of a connection."""

    @property
    def unread_bytes(self) -> int:
        """Of replies that the client has not taken yet, here or in the kernel."""
        ...

    def abort(self) -> None:
        """Close it now, whatever is under way."""
        ...


class Connections:
    """At most `most` connections; the one that has been idle for longest goes for a new one."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._all: set[Connection] = set()
        self._idle: OrderedDict[Connection, None] = OrderedDict()  # those without a request, longest idle first
        self._unread: OrderedDict[Connection, None] = OrderedDict()  # those with replies that wait, longest first
        self._complaints = Complaints(log)

    def add(self, connection: Connection) -> bool:
        """A new connection; False when all others are at work and it must be refused."""
        if len(self._all) >= self.most:
            idlest = next((one for one in self._idle if not one.unread_bytes), None)
            if idlest is None:
                self._complaints.tell("all connections are at work; refusing new ones", "server", OSError(self.most))
                return False
            self.remove(idlest)
            idlest.abort()
        self._all.add(connection)
        self._idle[connection] = None
        return True

    def remove(self, connection: Connection) -> None:
        self._all.discard(connection)
        self._idle.pop(connection, None)
        self._unread.pop(connection, None)

    def note_work(self, connection: Connection) -> None:
        """A request has come on it."""
        self._idle.pop(connection, None)

    def note_rest(self, connection: Connection) -> None:
        """It has been answered, and no other request waits on it."""
        if connection in self._all:
            self._idle[connection] = None

    def note_unread(self, connection: Connection) -> None:
        """Its client does not take a reply as fast as it comes; those that have waited longest go beyond the bound."""
        self._unread[connection] = None
        while sum(one.unread_bytes for one in self._unread) > MOST_UNREAD_BYTES:
            slowest = next(iter(self._unread))
            self.remove(slowest)
            slowest.abort()

    def note_read(self, connection: Connection) -> None:
        """Its client has caught up."""
        self._unread.pop(connection, None)


def most_connections(asked: int | None) -> int:
    """As many as asked for, where the process may open so many files; raises its soft limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = (asked or MOST_CONNECTIONS) + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = wanted if soft == resource.RLIM_INFINITY else soft
    most = max(min(asked or MOST_CONNECTIONS, room - RESERVED_DESCRIPTORS), FEWEST_CONNECTIONS)
    if asked is not None and most < asked:
        log.warning("fewer connections than asked for: the process may not open so many files", max_connections=most)
    return most
