"""Runs the app: listens at once, serves when the models are loaded, and leaves in good order.

On SIGTERM readiness goes first, so that balancers look elsewhere; after a delay no more connections are
taken, work in flight is answered, and the process ends within a bound. A model that cannot be loaded
ends the server with its error.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from queue import Queue
from threading import Thread
from types import FrameType

import uvicorn

from inlay.api.app import App
from inlay.api.connection import ConnectionLimits, connection_class
from inlay.api.connections import Connections, most_connections
from inlay.api.envelope import Envelope
from inlay.api.ops import Ops
from inlay.api.surroundings import Surroundings
from inlay.config import Settings
from inlay.corpus.search.served_corpora import warn_of_foreign_corpora
from inlay.errors import ConfigError, EngineError, InlayError
from inlay.telemetry.logs import get_logger
from inlay.types import Worker

log = get_logger("server")

BACKLOG = 2048
WORKER_SECONDS = 2.0  # for a device thread to end, once all requests are answered


def listen_for(settings: Settings) -> socket.socket:
    """The socket of a server, or of one of its front ends."""
    return listen(settings.host, settings.port, is_shared=settings.front_ends > 1)


def listen(host: str, port: int, option: str = "--port", *, is_shared: bool = False) -> socket.socket:
    """A socket that listens, beside others where it is shared; `ConfigError` when the address is not to be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot listen on {host}:{port} ({reason}): choose others with --host and {option}"
        ) from error
    return listener


def server_config(envelope: Envelope, settings: Settings) -> uvicorn.Config:
    """How HTTP is spoken: with bounds on connections, heads and bodies."""
    body_seconds = min(settings.body_timeout, settings.request_timeout)
    connections = Connections(most_connections(settings.max_connections))
    return uvicorn.Config(
        envelope,
        http=connection_class(ConnectionLimits(connections, settings.head_timeout, body_seconds, envelope.renderer_of)),
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,  # nothing here depends on the client's address
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout)),
    )


def run_server(
    app: App,
    around: Surroundings,
    listener: socket.socket,
    workers: Mapping[str, Worker],
    settings: Settings,
    on_start: Callable[[asyncio.AbstractEventLoop], None] | None = None,
) -> None:
    """Serve until a signal comes; `on_start` hears of the loop as it begins. Raises what kept a model from loading."""
    config = server_config(app.envelope, settings)
    failures: list[InlayError] = []
    server = Server(config, app.ops, settings.shutdown_delay, failures)

    async def serve() -> None:
        _watch_loading(server, workers, around, url_of(listener), failures)
        if on_start is not None:
            on_start(asyncio.get_running_loop())
        is_closed = True
        if app.jobs is not None:
            app.jobs.start()
        try:
            await server.serve(sockets=[listener])
            if app.jobs is not None:
                await app.jobs.close()
            is_closed = await app.service.close()
            if around.tracer is not None:
                await asyncio.to_thread(around.tracer.close)
        finally:
            beside = {} if app.replacer is None else app.replacer.close()
            _close_workers({**workers, **beside}, failures, is_cache_closed=is_closed)
        if failures:
            raise failures[0]

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(serve())


def _close_workers(workers: Mapping[str, Worker], failures: list[InlayError], *, is_cache_closed: bool) -> None:
    """Stop the device threads; the process waits neither for one that is stuck nor for a disk that hangs."""
    stuck = [name for name, worker in workers.items() if not worker.close(0 if failures else WORKER_SECONDS)]
    if stuck or not is_cache_closed:
        log.warning("ending without waiting for all", models=stuck, is_cache_closed=is_cache_closed)
        logging.shutdown()
        for error in failures:
            sys.stderr.write(f"inlay: {error.message}\n")
        sys.stderr.flush()
        os._exit(1 if failures else 0)  # a thread inside torch would abort the interpreter's own way out


class Server(uvicorn.Server):
    """uvicorn, with readiness taken back before anything else happens at SIGTERM."""

    def __init__(self, config: uvicorn.Config, ops: Ops, shutdown_delay: float, failures: list[InlayError]) -> None:
        super().__init__(config)
        self._ops = ops
        self._failures = failures  # why it has to end
        self._shutdown_delay = shutdown_delay

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A second signal, or Ctrl-C, does not wait for the delay; a second Ctrl-C waits for nothing."""
        is_first = not self._ops.is_draining
        self._ops.is_draining = True
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        elif sig == signal.SIGTERM and is_first and self._shutdown_delay > 0:
            log.info("shutting down", still_serving_seconds=self._shutdown_delay)
            loop = asyncio.get_running_loop()
            loop.call_soon_threadsafe(loop.call_later, self._shutdown_delay, self._exit)
        else:
            self._exit()

    async def on_tick(self, counter: int) -> bool:
        """Called several times a second: is it to end?"""
        processes = self._ops.processes
        if processes is not None and processes.failure is not None:
            self._failures.append(processes.failure)
            return True
        return await super().on_tick(counter)

    def _exit(self) -> None:
        self.should_exit = True


def _watch_loading(
    server: Server, workers: Mapping[str, Worker], around: Surroundings, url: str, failures: list[InlayError]
) -> None:
    """Tell when all models are served, or stop the server with the reason why one is not."""
    loop = asyncio.get_running_loop()

    def wait() -> None:
        try:
            _wait_loaded(workers)
            gc.collect()
            gc.freeze()  # what torch and the models brought need not be looked through with each request's garbage
            warn_of_foreign_corpora(around.corpora, [worker.spec.fingerprint for worker in workers.values()])
            log.info("ready", models=list(workers), url=url)
        except Exception as error:  # noqa: BLE001 - nobody else would hear of it
            failures.append(error if isinstance(error, InlayError) else EngineError(f"the start failed ({error!r})"))
            loop.call_soon_threadsafe(server._exit)

    Thread(target=wait, name="inlay-loading", daemon=True).start()


def _wait_loaded(workers: Mapping[str, Worker]) -> None:
    """Returns when all are loaded; raises as soon as one cannot be, though others still load."""
    ended: Queue[InlayError | None] = Queue()

    def wait(worker: Worker) -> None:
        try:
            worker.wait_loaded()
            ended.put(None)
        except InlayError as error:
            ended.put(error)

    for worker in workers.values():
        Thread(target=wait, args=(worker,), name="inlay-loading", daemon=True).start()
    for _ in workers:
        if (error := ended.get()) is not None:
            raise error


def url_of(listener: socket.socket) -> str:
    """Where it listens."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
