"""Processes that are killed, stopped and told to end, under load."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread

from kind import Run
from server import TEXTS, Server
from tries import asking, exchange, is_refusal, read_reply, request_of, until

CLIENTS = 4
AGAIN = "a process serves again"  # in the log


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
    """SIGTERM: what was taken is answered, and the process ends by itself, with status 0."""
    server = run.own_server("--cache", "none")
    expected = server.expected
    for _ in range(run.number):
        with ExitStack() as all_:
            asked = [(text, all_.enter_context(server.connect())) for text in TEXTS]
            for text, connection in asked:
                connection.sendall(asking(text))
            run.ask(server, 1)  # by now the others are taken
            server.process.send_signal(signal.SIGTERM)
            for text, connection in asked:
                try:
                    run.tries.judge(*read_reply(connection), server.expected[text])
                except ConnectionError:
                    run.tries["lost"] += 1
        run.tries.note(server.process.wait(60) == 0)
        server = run.own_server("--cache", "none", expected=expected)


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
    """kill -9 of one of two engines: what it had the other computes, and no client hears of it."""
    server = run.own_server("--device", "cpu", "--data-parallel-size", "2")
    is_over = Event()

    def ask(number: int) -> None:
        place = number
        while not is_over.is_set():
            text, place = TEXTS[place % len(TEXTS)], place + 1
            run.tries.good(server.address, server.expected[text], asking(text))

    threads = [Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for _ in range(run.number):
        time.sleep(run.chance.uniform(0.05, 0.5))
        os.kill(run.chance.choice(server.children("engine_process")), signal.SIGKILL)
        until(lambda: len(server.children("engine_process")) == 2, 10)
        run.tries.note(until(lambda: server.get("/ready")["status"] == "ready", 60) is not None)
        time.sleep(2.0)  # until the new one has loaded, too
    is_over.set()
    for thread in threads:
        thread.join()


def _front_end(run: Run, number: signal.Signals, *more: str) -> None:
    server = run.own_server("--front-ends", "2", *more)

    def fault() -> None:
        before = server.output().count(AGAIN)
        victim = run.chance.choice(server.children("front_end_process"))
        os.kill(victim, number)
        run.tries.note(until(lambda: victim not in server.children("front_end_process")) is not None)
        # One that is killed five times before it serves is given up, and the server with it.
        run.tries.note(until(lambda: server.output().count(AGAIN) > before) is not None)

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
    """A model in the place of another, and back, under load: each reply has the vector of one of the two."""
    folder = run.folder()
    other = _other_model(folder)
    server = run.own_server("--admin-key", "key", "--cache", "none")
    with Server("--served-model-name", "demo", "--cache", "none", model=str(other)) as second:
        both = {text: {server.expected[text], second.expected[text]} for text in TEXTS}
    run.tries.note(all(len(vectors) == 2 for vectors in both.values()))
    is_over = Event()

    def ask(number: int) -> None:
        place = number
        while not is_over.is_set():
            text, place = TEXTS[place % len(TEXTS)], place + 1
            status, body = exchange(server.address, asking(text))
            is_right = status == 200 and body["data"][0]["embedding"] in both[text]
            run.tries["right" if is_right else "refused" if is_refusal(status, body) else "wrong"] += 1

    threads = [Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for place in range(run.number):
        run.tries.note(_replace(server, ("demo", str(other))[place % 2 == 0], lambda: None) == "done")
    is_over.set()
    for thread in threads:
        thread.join()


def _other_model(folder: Path) -> Path:
    """The demo with other numbers in its table of tokens."""
    from safetensors.numpy import load_file, save_file

    from inlay.models.source import locate

    shutil.copytree(locate("demo"), folder / "other")
    weights = folder / "other" / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    tensors[name] = tensors[name][::-1].copy()
    save_file(tensors, weights)
    return folder / "other"


def kill_replacement(run: Run) -> None:
    """The next one's process is killed while it loads: the one before serves until another has come."""
    server = run.own_server("--admin-key", "key", "--isolation", "process")

    def fault() -> None:
        if until(lambda: set(server.children("engine_process")) - before, 5) is None:
            run.tries["wrong"] += 1
            return
        time.sleep(run.chance.uniform(0.0, 1.0))
        new = set(server.children("engine_process")) - before
        for child in new:
            os.kill(child, signal.SIGKILL)

    with load(run, server):
        for _ in range(run.number):
            before = set(server.children("engine_process"))
            run.tries.note(_replace(server, "demo", fault) in ("done", "failed"))


def _replace(server: Server, model: str, fault: Callable[[], None]) -> str | None:
    told, _ = exchange(
        server.address, request_of({"name": "demo", "model": model}, headers=ADMIN, path="/admin/models")
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
