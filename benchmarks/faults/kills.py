"""Processes that are killed, stopped and told to end, under load."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

from kind import Run
from server import TEXTS, Server
from tries import asking, exchange, request_of, until

CLIENTS = 4


@contextmanager
def load(run: Run, server: Server, headers: str = "") -> Iterator[None]:
    """Patient clients: every second request is computed anew."""
    is_over = Event()

    def ask(number: int) -> None:
        place = number
        while not is_over.is_set():
            text, place = TEXTS[place % len(TEXTS)], place + 1
            more = headers + ("cache-control: no-cache\r\n" if place % 2 else "")
            run.tries.patient(server.address, server.expected[text], asking(text, more))

    threads = [Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def _repeat(run: Run, server: Server, fault: Callable[[], object]) -> None:
    """The fault, again and again under load, each time once the server is whole again."""
    with load(run, server):
        for _ in range(run.number):
            time.sleep(run.chance.uniform(0.05, 0.5))
            fault()
            run.tries.note(until(server.is_ready) is not None)


def kill_server(run: Run) -> None:
    """kill -9 of the server: the next one has what is on the disk, and clients that try again get their vectors."""
    cache = f"disk://{run.folder()}/cache?size=64MiB"
    server = run.own_server("--cache", cache)
    expected, port = server.expected, server.address[1]
    with load(run, server):
        for _ in range(run.number):
            time.sleep(run.chance.uniform(0.0, 0.5))
            server.kill()
            server = run.own_server("--cache", cache, expected=expected, port=port)
    run.ask(server, 10)


def terminate(run: Run) -> None:
    """SIGTERM: what was taken is answered, the process ends by itself, and the next one takes over."""
    server = run.own_server("--cache", "none")
    expected, port = server.expected, server.address[1]
    with load(run, server):
        for _ in range(run.number):
            time.sleep(run.chance.uniform(0.1, 0.5))
            server.process.send_signal(signal.SIGTERM)
            run.tries.note(server.process.wait(60) in (0, -signal.SIGTERM))
            server = run.own_server("--cache", "none", expected=expected, port=port)


def kill_engine(run: Run) -> None:
    """kill -9 of the engine's process: the server has another, and says when to come back until then."""
    server = run.own_server("--isolation", "process")

    def fault() -> None:
        for child in server.children("engine_process"):
            os.kill(child, signal.SIGKILL)
        until(lambda: not server.is_ready(), 2)

    _repeat(run, server, fault)


def stop_engine(run: Run) -> None:
    """SIGSTOP of the engine's process: it is found, killed and replaced."""
    server = run.own_server("--isolation", "process", "--stall-timeout", "1")

    def fault() -> None:
        (engine,) = server.children("engine_process")
        os.kill(engine, signal.SIGSTOP)
        run.tries.note(until(lambda: engine not in server.children("engine_process")) is not None)

    _repeat(run, server, fault)


def kill_replica(run: Run) -> None:
    """kill -9 of one of two engines: what it had the other computes."""
    server = run.own_server("--device", "cpu", "--data-parallel-size", "2")

    def fault() -> None:
        os.kill(run.chance.choice(server.children("engine_process")), signal.SIGKILL)
        until(lambda: len(server.children("engine_process")) == 2, 10)

    _repeat(run, server, fault)


def _front_end(run: Run, number: signal.Signals, *more: str) -> None:
    server = run.own_server("--front-ends", "2", *more)

    def fault() -> None:
        victim = run.chance.choice(server.children("front_end_process"))
        os.kill(victim, number)
        run.tries.note(until(lambda: victim not in server.children("front_end_process")) is not None)
        until(lambda: len(server.children("front_end_process")) == 2, 20)

    _repeat(run, server, fault)


def kill_front_end(run: Run) -> None:
    """kill -9 of one of two front ends: its connections are cut, and clients try again with the other."""
    _front_end(run, signal.SIGKILL)


def stop_front_end(run: Run) -> None:
    """SIGSTOP of one of two front ends: it is found, killed and replaced."""
    _front_end(run, signal.SIGSTOP, "--stall-timeout", "1")


def stop_server(run: Run) -> None:
    """SIGSTOP and SIGCONT of the whole server: it goes on as if nothing had been."""
    server = run.own_server("--isolation", "process", "--stall-timeout", "1")
    with load(run, server):
        for _ in range(run.number):
            time.sleep(0.2)
            os.killpg(server.process.pid, signal.SIGSTOP)
            time.sleep(run.chance.uniform(0.5, 2.0))
            os.killpg(server.process.pid, signal.SIGCONT)
    run.tries.note(until(server.is_ready) is not None)


ADMIN = "authorization: Bearer key\r\n"


def replace(run: Run) -> None:
    """A model in the place of another, under load."""
    server = run.own_server("--admin-key", "key", "--cache", "none")
    with load(run, server):
        for _ in range(run.number):
            run.tries.note(_replace(server, lambda: None) == "done")


def kill_replacement(run: Run) -> None:
    """The same, and the next one's process is killed while it loads: the one before serves until another has come."""
    server = run.own_server("--admin-key", "key", "--isolation", "process")

    def fault() -> None:
        until(lambda: len(server.children("engine_process")) == 2, 5)
        time.sleep(run.chance.uniform(0.0, 1.0))
        os.kill(max(server.children("engine_process")), signal.SIGKILL)

    with load(run, server):
        for _ in range(run.number):
            run.tries.note(_replace(server, fault) in ("done", "failed"))


def _replace(server: Server, fault: Callable[[], None]) -> str | None:
    told, _ = exchange(
        server.address, request_of({"name": "demo", "model": "demo"}, headers=ADMIN, path="/admin/models")
    )
    fault()
    state: list[str] = []

    def is_over() -> bool:
        with server.connect() as connection:
            connection.sendall(f"GET /admin/models HTTP/1.1\r\nhost: x\r\n{ADMIN}connection: close\r\n\r\n".encode())
            received = b""
            while chunk := connection.recv(1 << 16):
                received += chunk
        state[:] = [json.loads(received.partition(b"\r\n\r\n")[2])["replacements"][0]["state"]]
        return state[0] in ("done", "failed")

    return state[0] if told == 202 and until(is_over) is not None else None
