"""Several front ends on one port, for the same engines: starts them all, watches them, and ends them in order.

In: the models and the settings. Out: a server that answers on one port from several processes, and on another tells
of all of them. Each front end has a socket of its own on the port (SO_REUSEPORT), so that the kernel shares out the
connections.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from threading import Event, Thread

from inlay.api.server import listen
from inlay.api.surroundings import Surroundings
from inlay.config import Settings
from inlay.distributed.admin import Admin
from inlay.distributed.child import Child
from inlay.distributed.engines import Engines
from inlay.distributed.messages import StartFrontEnd, Told
from inlay.distributed.numbers import ask_all, numbers_of
from inlay.distributed.supervisor import Supervisor
from inlay.distributed.watch import WATCH_SECONDS, Watch
from inlay.errors import ConfigError, InlayError
from inlay.telemetry.families import Family
from inlay.telemetry.logs import get_logger
from inlay.types import ModelSpec

log = get_logger("processes")

MODULE = "inlay.distributed.front_end_process"
LAST_PORT = 65535
MARGIN_SECONDS = 5.0  # for a front end to end, beyond the time that it is given


def run_front_ends(specs: Sequence[ModelSpec], settings: Settings) -> None:
    """Serve until a signal comes. Raises what kept an engine or a front end from starting."""
    if settings.jobs is not None:
        raise ConfigError(
            "--jobs are run by one front end alone: leave --front-ends out, or serve them by another server"
        )
    asyncio.run(Surroundings.of(settings, specs).close())  # a mistake shows before anything is started
    with _held_port(settings.host, settings.port) as held:
        admin = Admin(settings, _admin_port(settings))
        engines = Engines(specs, settings)
        front_ends = FrontEnds(engines, specs, settings, held.getsockname()[1], admin.port)
        try:
            admin.run(front_ends)
        finally:
            front_ends.close()
            engines.close()
    if front_ends.failure is not None:
        raise front_ends.failure


class FrontEnds:
    """All processes of the server, as whoever watches it sees them."""

    def __init__(
        self, engines: Engines, specs: Sequence[ModelSpec], settings: Settings, port: int, admin_port: int
    ) -> None:
        self.engines = engines
        self._failure: InlayError | None = None
        self._seconds = settings.shutdown_delay + settings.shutdown_timeout + MARGIN_SECONDS
        self._supervisors = [
            self._supervise(StartFrontEnd(name, list(specs), settings, port, admin_port, engines.addresses))
            for name in (f"front-end-{number}" for number in range(settings.front_ends))
        ]
        self._watches = [Watch(supervisor, settings.stall_timeout) for supervisor in self._supervisors]
        self._is_closed = Event()
        Thread(target=self._watch, name="inlay-watch", daemon=True).start()

    @property
    def failure(self) -> InlayError | None:
        """Why the server cannot go on; None while it can."""
        return self._failure or self.engines.failure

    def ask(self) -> list[Told | None]:
        """How each front end is. Blocks for moments."""
        return ask_all(self._supervisors)

    def numbers(self) -> dict[str, list[Family]]:
        """What each process counts, by its name. Blocks for moments."""
        return {**numbers_of(self._supervisors), **self.engines.numbers()}

    def terminate(self) -> None:
        """Let the front ends answer what they have, and end."""
        self._is_closed.set()
        for supervisor in self._supervisors:
            supervisor.terminate()
        end = time.monotonic() + self._seconds
        for supervisor in self._supervisors:
            supervisor.wait(max(end - time.monotonic(), 0))

    def close(self) -> None:
        """End what has not ended."""
        self._is_closed.set()
        for supervisor in self._supervisors:
            supervisor.close()

    def _supervise(self, start: StartFrontEnd) -> Supervisor:
        return Supervisor(start.name, lambda: Child(MODULE, start.name, start), self._fail)

    def _watch(self) -> None:
        """Have front ends end whose loop does not answer any more."""
        while not self._is_closed.wait(WATCH_SECONDS):
            told = ask_all(self._supervisors, WATCH_SECONDS)
            for watch, one in zip(self._watches, told, strict=True):
                watch.note(has_spoken=one is not None)

    def _fail(self, error: InlayError) -> None:
        self._failure = error


def _held_port(host: str, port: int) -> socket.socket:
    """A socket that holds the port for the front ends, and takes no connections. Nobody else may listen there."""
    listen(host, port).close()
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    held = socket.socket(family, kind, protocol)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(address)
    return held


def _admin_port(settings: Settings) -> int:
    if settings.admin_port is not None:
        return settings.admin_port
    if settings.port == 0:
        return 0
    return settings.port + 1 if settings.port < LAST_PORT else settings.port - 1
