"""A Redis that is killed, stopped, full, or answers what it never should: vectors come all the same."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from threading import Thread

import redis
from kills import load
from kind import Run
from server import TEXTS, Server
from tries import asking, until


class Redis:
    """redis-server on a port of its own."""

    def __init__(self, run: Run, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._folder = run.folder()
        self._options = options
        self.start()
        run.held.callback(self.kill)

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self._folder]
        self.process = subprocess.Popen([*command, *self._options], stdout=subprocess.DEVNULL)
        until(self._answers, 10)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(100).startswith(b"+PONG")
        return False

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


def is_missing() -> str | None:
    return None if shutil.which("redis-server") else "there is no redis-server"


def _server(run: Run, store: Redis) -> Server:
    return run.own_server("--cache", store.url)


def kill_redis(run: Run) -> None:
    """kill -9 of Redis, and another one after a while."""
    store = Redis(run)
    server = _server(run, store)
    with load(run, server):
        for _ in range(run.number):
            store.kill()
            run.ask(server, 5)
            store.start()
            run.ask(server, 5)


def stop_redis(run: Run) -> None:
    """SIGSTOP of Redis: nobody waits for it for long."""
    store = Redis(run)
    server = _server(run, store)
    with load(run, server):
        for _ in range(run.number):
            os.kill(store.process.pid, signal.SIGSTOP)
            run.ask(server, 10)
            os.kill(store.process.pid, signal.SIGCONT)
            run.ask(server, 5)


def full_redis(run: Run) -> None:
    """A Redis that takes nothing more."""
    store = Redis(run, "--maxmemory", "2mb", "--maxmemory-policy", "noeviction")
    server = _server(run, store)
    store.client().config_set("maxmemory", "1")
    for text in TEXTS[: run.number]:
        run.tries.good(server.address, server.expected[text], asking(text, ""))
    run.ask(server)


def damaged_redis(run: Run) -> None:
    """Values that are cut, flipped, or of another key."""
    store = Redis(run)
    server = _server(run, store)
    client = store.client()
    run.tries.note(until(lambda: client.dbsize() >= len(TEXTS), 5) is not None)
    keys = sorted(client.keys())
    for place in range(run.number):
        key, other = run.chance.choice(keys), run.chance.choice(keys)
        match place % 3:
            case 0:
                client.setrange(key, run.chance.randrange(200), b"damage")
            case 1:
                client.copy(other, key, replace=True)
            case _:
                client.set(key, b"short")
        text = TEXTS[place % len(TEXTS)]
        run.tries.good(server.address, server.expected[text], asking(text, ""))


def no_redis(run: Run) -> None:
    """Something else answers on its port: bytes that are no protocol."""
    known = run.server().expected
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        connection.recv(1000)
                        connection.sendall(run.chance.randbytes(100) + b"\r\n")

        Thread(target=answer, daemon=True).start()
        server = run.own_server("--cache", f"redis://127.0.0.1:{listener.getsockname()[1]}/0", expected=known)
        run.ask(server)
