"""The port that tells of all processes of a server with several front ends: /metrics, /health and /ready.

In: signals, and who knows the processes. Out: their numbers in one text, whether all of them are well, and an end in
good order.
"""

from __future__ import annotations

import asyncio
import signal
from threading import Thread
from types import FrameType
from typing import Protocol

import uvicorn

from inlay.api.auth import Keyring
from inlay.api.common_shapes import render_error
from inlay.api.envelope import Envelope
from inlay.api.exchange import Exchange
from inlay.api.ops import PROMETHEUS, Processes, status_reply
from inlay.api.replies import Reply
from inlay.api.routes import GET, Route, RouteTable
from inlay.api.server import listen, server_config, url_of
from inlay.cache.tiers import Cache
from inlay.config import Settings
from inlay.distributed.messages import Told
from inlay.telemetry.families import render_families
from inlay.telemetry.logs import get_logger
from inlay.telemetry.metrics import Metrics

log = get_logger("server")

MAIN = "main"  # the name of this process


class FrontEndProcesses(Processes, Protocol):
    """The processes that answer requests, and their engines."""

    def ask(self) -> list[Told | None]:
        """How each front end is; None of one that does not say. Blocks for moments."""
        ...

    def terminate(self) -> None:
        """Blocks until they have answered what they have, and ended."""
        ...


class Admin:
    """The routes, and the server that answers them."""

    def __init__(self, settings: Settings, port: int) -> None:
        self._settings = settings
        self._listener = listen(settings.host, port, "--admin-port")
        self.port: int = self._listener.getsockname()[1]
        self._is_draining = False

    def run(self, processes: FrontEndProcesses) -> None:
        """Answer until a signal comes or the processes cannot go on, and have them end."""
        metrics = Metrics({}, Cache([]))
        envelope = Envelope(RouteTable(self._routes(processes, metrics)), Keyring({}), metrics)
        log.info("the numbers of all processes are told", url=f"{url_of(self._listener)}/metrics")
        _Server(server_config(envelope, self._settings), self, processes).run(sockets=[self._listener])

    def drain(self) -> None:
        """From now on it is not ready."""
        self._is_draining = True

    def _routes(self, processes: FrontEndProcesses, metrics: Metrics) -> list[Route]:
        async def numbers(exchange: Exchange) -> Reply:
            others = await asyncio.to_thread(processes.numbers)
            return Reply(render_families({MAIN: metrics.families(), **others}), content_type=PROMETHEUS)

        async def health(exchange: Exchange) -> Reply:
            told = await asyncio.to_thread(processes.ask)
            reasons = [one.why_unhealthy for one in told if one is not None and one.why_unhealthy]
            return status_reply("ok", "unhealthy", next(iter(reasons), None))

        async def ready(exchange: Exchange) -> Reply:
            return status_reply("ready", "not ready", await asyncio.to_thread(self._why_not_ready, processes))

        return [
            Route(GET, "/health", "Are all well", health, render_error, is_open=True, is_probe=True),
            Route(GET, "/ready", "Are all ready", ready, render_error, is_open=True, is_probe=True),
            Route(GET, "/metrics", "Numbers of all processes", numbers, render_error, is_open=True),
        ]

    def _why_not_ready(self, processes: FrontEndProcesses) -> str | None:
        if self._is_draining:
            return "shutting down"
        for number, told in enumerate(processes.ask()):
            reason = "does not answer" if told is None else told.why_not_ready
            if reason is not None:
                return f"front-end-{number}: {reason}"
        return None


class _Server(uvicorn.Server):
    """uvicorn, which ends once the processes have ended."""

    def __init__(self, config: uvicorn.Config, admin: Admin, processes: FrontEndProcesses) -> None:
        super().__init__(config)
        self._admin = admin
        self._processes = processes
        self._ending: Thread | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second Ctrl-C waits for nothing."""
        self._admin.drain()
        if self._ending is None:
            self._ending = Thread(target=self._end, name="inlay-ending", daemon=True)
            self._ending.start()
        elif sig == signal.SIGINT:
            self.force_exit = self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Called several times a second: is it to end?"""
        return self._processes.failure is not None or await super().on_tick(counter)

    def _end(self) -> None:
        self._processes.terminate()
        self.should_exit = True
