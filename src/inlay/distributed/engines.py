"""The engine processes of a server, one for each group of devices: started, watched, started again, and ended.

In: the models and the settings. Out: addresses by which any process of this server reaches the engines, and links from
this one. Knows nothing of HTTP.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread

from inlay.config import Settings
from inlay.distributed.child import Child
from inlay.distributed.engine_link import EngineLink
from inlay.distributed.isolation import settings_of_engines
from inlay.distributed.messages import StartEngine
from inlay.distributed.numbers import numbers_of
from inlay.distributed.pulse import SUFFIX
from inlay.distributed.remote_worker import links_to, remote_workers
from inlay.distributed.supervisor import Supervisor
from inlay.errors import ConfigError, InlayError
from inlay.telemetry.families import Family
from inlay.telemetry.logs import get_logger
from inlay.types import ModelSpec

log = get_logger("processes")

MODULE = "inlay.distributed.engine_process"
WATCH_SECONDS = 1.0
BACKLOG = 128


class Engines:
    """All engine processes. They begin to load at once."""

    def __init__(self, specs: Sequence[ModelSpec], settings: Settings) -> None:
        self._stall_timeout = settings.stall_timeout
        self._specs = specs
        self._settings = settings_of_engines(settings)
        self._directory = _make_directory()
        self.failure: InlayError | None = None  # why an engine will not come any more
        self._is_closed = Event()
        self.addresses = [str(self._directory / f"engine-{number}") for number in range(settings.data_parallel_size)]
        # They stay, whoever accepts from them.
        self._listeners = [_listen(address) for address in self.addresses]
        self._pulses = [_listen(address + SUFFIX) for address in self.addresses]
        self.links = links_to(self.addresses, specs)
        self.workers = remote_workers(specs, self.links)
        self.supervisors = [self._supervise(number, link) for number, link in enumerate(self.links)]
        Thread(target=self._watch, name="inlay-watch", daemon=True).start()

    def numbers(self) -> dict[str, list[Family]]:
        """What each engine process counts, by its name. Blocks for moments."""
        return numbers_of(self.supervisors)

    def close(self) -> None:
        """End all processes, and leave nothing behind."""
        self._is_closed.set()
        for link in self.links:
            link.close()
        for supervisor in self.supervisors:
            supervisor.close()
        for listener in (*self._listeners, *self._pulses):
            listener.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _supervise(self, number: int, link: EngineLink) -> Supervisor:
        descriptors = [self._listeners[number].fileno(), self._pulses[number].fileno()]
        start = StartEngine(link.name, list(self._specs), self._settings, number, *descriptors)

        def give_up(error: InlayError) -> None:
            self.failure = error
            link.give_up(error)

        return Supervisor(link.name, lambda: Child(MODULE, link.name, start, descriptors), give_up)

    def _watch(self) -> None:
        """End engines that do nothing any more."""
        while not self._is_closed.wait(WATCH_SECONDS):
            for link, supervisor in zip(self.links, self.supervisors, strict=True):
                if (reason := self._why_unwell(link)) is not None:
                    supervisor.kill(reason)

    def _why_unwell(self, link: EngineLink) -> str | None:
        if link.silence > self._stall_timeout:
            return f"it has not spoken for {link.silence:.0f} s"
        reasons = (link.state_of(spec.name).health for spec in self._specs)
        return next((reason for reason in reasons if reason is not None), None)


def _make_directory() -> Path:
    """For the sockets; nobody else may enter it."""
    try:
        return Path(tempfile.mkdtemp(prefix="inlay-"))
    except OSError as error:
        raise ConfigError(
            f"engines in processes of their own need a directory for their sockets ({error}): "
            "set TMPDIR to one that can be written, or use --isolation thread"
        ) from error


def _listen(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        shutil.rmtree(Path(address).parent, ignore_errors=True)
        raise ConfigError(f"cannot listen on {address} ({error}): set TMPDIR to a shorter path") from error
    return listener
