"""The engine processes of a server, one for each group of devices: started, watched, started again, and ended.

In: the models and the settings. Out: addresses by which any process of this server reaches the engines, and links from
this one. Knows nothing of HTTP.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence
from threading import Event, Thread

from inlay.config import Settings
from inlay.distributed.child import Child
from inlay.distributed.engine_link import EngineLink
from inlay.distributed.isolation import settings_of_engines
from inlay.distributed.messages import StartEngine
from inlay.distributed.numbers import numbers_of
from inlay.distributed.pulse import SUFFIX
from inlay.distributed.remote_worker import links_to, remote_workers
from inlay.distributed.socket_directory import SocketDirectory
from inlay.distributed.supervisor import Supervisor
from inlay.distributed.watch import WATCH_SECONDS, Watch
from inlay.errors import ConfigError, InlayError
from inlay.telemetry.families import Family
from inlay.telemetry.logs import get_logger
from inlay.types import ModelSpec

log = get_logger("processes")

MODULE = "inlay.distributed.engine_process"
BACKLOG = 128


class Engines:
    """All engine processes. They begin to load at once."""

    def __init__(self, specs: Sequence[ModelSpec], settings: Settings, first_number: int = 0) -> None:
        self._specs = list(specs)  # that an engine loads when it is started
        self._settings = settings_of_engines(settings)
        self._directory = SocketDirectory()
        self.failure: InlayError | None = None  # why an engine will not come any more
        self._is_closed = Event()
        names = [f"engine-{first_number + number}" for number in range(settings.data_parallel_size)]
        self.addresses = [str(self._directory.path / name) for name in names]
        # They stay, whoever accepts from them.
        try:
            self._listeners = [_listen(address) for address in self.addresses]
            self._pulses = [_listen(address + SUFFIX) for address in self.addresses]
        except ConfigError:
            self._directory.close()
            raise
        self.links = links_to(self.addresses, specs)
        self.workers = remote_workers(specs, self.links)
        self.supervisors = [self._supervise(number, link) for number, link in enumerate(self.links)]
        self._watches = [Watch(supervisor, settings.stall_timeout) for supervisor in self.supervisors]
        Thread(target=self._watch, name="inlay-watch", daemon=True).start()

    def numbers(self) -> dict[str, list[Family]]:
        """What each engine process counts, by its name. Blocks for moments."""
        return numbers_of(self.supervisors)

    def leave_out(self, names: Collection[str]) -> None:
        """Engines that are started from now on do without these models."""
        self._specs[:] = [spec for spec in self._specs if spec.name not in names]

    def close(self) -> None:
        """End all processes, and leave nothing behind."""
        self._is_closed.set()
        for link in self.links:
            link.close()
        for supervisor in self.supervisors:
            supervisor.close()
        for listener in (*self._listeners, *self._pulses):
            listener.close()
        self._directory.close()

    def _supervise(self, number: int, link: EngineLink) -> Supervisor:
        descriptors = [self._listeners[number].fileno(), self._pulses[number].fileno()]

        def give_up(error: InlayError) -> None:
            self.failure = error
            link.give_up(error)

        def start() -> Child:
            about = StartEngine(link.name, list(self._specs), self._settings, number, *descriptors)
            return Child(MODULE, link.name, about, descriptors)

        return Supervisor(link.name, start, give_up)

    def _watch(self) -> None:
        """Have engines end that do nothing any more."""
        heard = [0] * len(self.links)
        while not self._is_closed.wait(WATCH_SECONDS):
            for number, (link, watch) in enumerate(zip(self.links, self._watches, strict=True)):
                if link.has_unread():  # this process is behind: what it knows of the engine may be out of date
                    watch.note(has_spoken=True)
                    continue
                watch.note(has_spoken=link.num_heard != heard[number], why_unwell=link.why_unwell())
                heard[number] = link.num_heard


def _listen(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {address} ({error}): set TMPDIR to a shorter path") from error
    return listener
