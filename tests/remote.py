"""A worker behind a real socket, with an engine's server at its other end, in one process."""

from __future__ import annotations

import socket
from pathlib import Path

from inlay.distributed.engine_link import EngineLink
from inlay.distributed.engine_server import EngineServer
from inlay.distributed.remote_worker import RemoteWorker
from inlay.types import Worker


class RemoteEngine:
    """An engine of one model, which can end and come back."""

    def __init__(self, folder: Path, worker: Worker) -> None:
        self.address = str(folder / "engine")
        self.worker = worker
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen()
        self._links: list[EngineLink] = []
        self.server: EngineServer
        self.start(worker)

    def start(self, worker: Worker) -> None:
        """Be a new engine, with a worker of its own."""
        self.worker = worker
        self.server = EngineServer(self._listener, {worker.spec.name: worker})
        self.server.start()
        self.server.wait_loaded()

    def link(self) -> EngineLink:
        """A front end's."""
        link = EngineLink(self.address, "engine-0", [self.worker.spec.name])
        self._links.append(link)
        return link

    def remote(self) -> RemoteWorker:
        """The worker as a new front end sees it, ready."""
        made = RemoteWorker(self.link(), self.worker.spec)
        made.wait_loaded()
        return made

    def end(self) -> None:
        """As the engine's process ends: all its connections are cut."""
        self.server.close()

    def close(self) -> None:
        for link in self._links:
            link.close()
        self.end()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.worker.close()
