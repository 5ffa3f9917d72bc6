"""Clients and files that do what they should not, against a real server: is every good request answered, and rightly?

    .venv/bin/python benchmarks/faults.py [--quick] [--kinds idle,damage] [--seed 0]

Prints a row for each kind. A try is one request of a good client while the fault is there, or one of a bad client
whose reply must be a refusal. `right`: the bits that the server gave before · `refused`: a reply that says why, or a
closed connection for a bad client · `wrong`: other vectors, or a reply that is no JSON · `lost`: no reply to a good
client · `hung`: none in time. The status is 1 unless wrong, lost and hung are 0. All traffic is on the loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

SECONDS = 20.0  # that a good client waits
FEW = 50  # tries, above which a run is not a quick one
MIB = 1 << 20
TEXTS = [f"a text of number {number}" for number in range(40)]
MEMORY_SHARE, MEMORY_BESIDE = 1.5, 64 * MIB  # what a request may take: so many times its size, and this
WIDE, WIDE_SHARE = "wide letters", 6.0  # a text with a character beyond U+FFFF has four bytes for each of its others
HALF_OPEN_BYTES, HALF_OPEN_SECONDS = 100 * MIB, 0.1


class Server:
    """`inlay serve demo` in a process of its own."""

    def __init__(self, *arguments: str, prefix: Sequence[str] = (), tokens: int = 256) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the server
        clean = {key: value for key, value in os.environ.items() if not key.startswith("INLAY_")}
        command = [*prefix, sys.executable, "-m", "inlay", "serve", "demo", *arguments, "--port", "0"]
        self.process = subprocess.Popen(command, stderr=self.log, env=clean, cwd=tempfile.gettempdir())
        self.address = self._wait()
        self.expected = {text: self._first(text) for text in TEXTS}

    def _wait(self) -> tuple[str, int]:
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            self.log.seek(0)
            if found := re.search(r'"event": "ready".*"url": "([^"]+)"', self.log.read()):
                parts = urlsplit(found[1])
                return str(parts.hostname), int(parts.port or 0)
            time.sleep(0.05)
        self.log.seek(0)
        raise SystemExit(f"the server did not become ready:\n{self.log.read()}")

    def _first(self, text: str) -> str:
        status, body = exchange(self, request_of({"input": text, "encoding_format": "base64"}))
        if status != 200:
            raise SystemExit(f"the server refuses a first request: {body!r}")
        embedding: str = body["data"][0]["embedding"]
        return embedding

    def connect(self, seconds: float = SECONDS) -> socket.socket:
        return socket.create_connection(self.address, timeout=seconds)

    def memory(self, name: str) -> int:
        """Bytes of VmRSS, or of VmHWM since `forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{name}:\s+(\d+)", status)
        return int(found[1]) * 1024 if found else 0

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()


def request_of(body: object, length: int | None = None, headers: str = "") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length or len(data)}\r\n\r\n"
    return head.encode() + data


def read_reply(connection: socket.socket) -> tuple[int, dict[str, object]]:
    """Status and JSON of one reply; ConnectionError where none came, ValueError where it is no JSON."""
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            chunk = connection.recv(1 << 16)
            if not chunk:
                raise ConnectionError("closed without a reply")
            received += chunk
        head, _, received = received.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        if status != 100:
            break
    length = int((re.search(rb"content-length: (\d+)", head) or [b"", b"0"])[1])
    while len(received) < length:
        chunk = connection.recv(1 << 18)
        if not chunk:
            raise ConnectionError("closed within a reply")
        received += chunk
    return status, json.loads(received[:length])


def exchange(server: Server, request: bytes) -> tuple[int, dict[str, object]]:
    with server.connect() as connection:
        connection.sendall(request)
        return read_reply(connection)


class Tries(Counter[str]):
    """How many tries ended how."""

    def good(self, server: Server, text: str, request: bytes | None = None) -> None:
        """A good client's request for a text whose vector is known; a refusal says when to come back."""
        try:
            asked = request or request_of(
                {"input": text, "encoding_format": "base64"}, headers="cache-control: no-cache\r\n"
            )
            self.judge(*exchange(server, asked), server.expected[text])
        except TimeoutError:
            self["hung"] += 1
        except ConnectionError:
            self["lost"] += 1
        except ValueError:
            self["wrong"] += 1

    def judge(self, status: int, body: dict[str, object], expected: str) -> None:
        if status == 200:
            data = body["data"]
            self["right" if isinstance(data, list) and data[0]["embedding"] == expected else "wrong"] += 1
        else:
            error = body.get("error")
            self["refused" if isinstance(error, dict) and error.get("code") and status != 500 else "wrong"] += 1

    def bad(self, connection: socket.socket, sent: bytes) -> None:
        """A bad client: it gets a refusal, or its connection is closed."""
        try:
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(sent)
            status, body = read_reply(connection)
            self["refused" if 400 <= status < 600 and status != 500 and "error" in body else "wrong"] += 1
        except TimeoutError:
            self["hung"] += 1
        except ConnectionError:
            self["refused"] += 1
        except ValueError:
            self["wrong"] += 1


Kind = Callable[[int, random.Random], Tries]


def ask_all(server: Server, tries: Tries, number: int) -> None:
    for place in range(number):
        tries.good(server, TEXTS[place % len(TEXTS)])


def slow(number: int, chance: random.Random) -> Tries:
    """Bodies that stop half-way, as many as there are places, and more."""
    tries = Tries()
    with (
        Server("--max-concurrent-requests", "8", "--body-timeout", "1", "--cache", "none") as server,
        ExitStack() as all_,
    ):
        connections = [all_.enter_context(server.connect()) for _ in range(number)]
        for connection in connections:
            connection.sendall(request_of({"input": "x" * 100}, length=chance.randrange(1000, 100_000)))
        ask_all(server, tries, number)
        for connection in connections:
            tries.bad(connection, b"")
    return tries


def vanishing(number: int, chance: random.Random) -> Tries:
    """Clients that close at any point of their request, or of its reply."""
    tries = Tries()
    with Server("--cache", "none") as server:
        for place in range(number):
            whole = request_of({"input": [f"gone {place} {i}" for i in range(20)]})
            with server.connect(0.2) as connection:
                connection.sendall(whole[: chance.randrange(len(whole) + 1)])
                if chance.random() < 0.3:
                    with suppress(OSError):
                        connection.recv(100)
            if place % 4 == 0:
                ask_all(server, tries, 2)
        ask_all(server, tries, 10)
    return tries


def never_reading(number: int, chance: random.Random) -> Tries:
    """Clients that send requests one after the other and read none of the replies."""
    tries = Tries()
    with Server("--max-concurrent-requests", "8", "--cache", "none") as server, ExitStack() as all_:
        for _ in range(min(number, 24)):
            connection = all_.enter_context(server.connect(0.2))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with suppress(OSError):
                for _ in range(20):
                    connection.sendall(request_of({"input": TEXTS}))
        time.sleep(2)
        ask_all(server, tries, number)
    return tries


def garbage(number: int, chance: random.Random) -> Tries:
    """Bytes that are no HTTP, heads without end, bodies that are no JSON or not the right one."""
    tries = Tries()
    bodies = [
        b"{",
        b"[" * 9000,
        b"\xff\xfe",
        b'{"input": "\\ud800"',
        b'{"input": 1e999}',
        b"null",
        b'{"input": ["a", 5]}',
    ]
    heads = [
        b"\x16\x03\x01\x00\xa5",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"PUT / HTTP/1.1\r\na\x01: b\r\n\r\n",
        b"A: b\r\n" * 50_000,
    ]
    with Server() as server:
        for place in range(number):
            sent = chance.choice(heads) if place % 2 else request_of(chance.choice(bodies))
            if place % 5 == 4:
                sent = chance.randbytes(chance.randrange(1, 3000)) + b"\r\n\r\n"
            with server.connect() as connection:
                tries.bad(connection, sent)
        ask_all(server, tries, 10)
    return tries


def pipelining(number: int, chance: random.Random) -> Tries:
    """Requests sent before the last one was answered, in pieces of any size, and then one's own side closed."""
    tries = Tries()
    with Server("--cache", "none") as server:
        for _ in range(max(number // 8, 1)):
            asked = [chance.choice(TEXTS) for _ in range(8)]
            whole = b"".join(request_of({"input": text, "encoding_format": "base64"}) for text in asked)
            with server.connect() as connection:
                while whole:
                    piece = chance.randrange(1, 400)
                    connection.sendall(whole[:piece])
                    whole = whole[piece:]
                if chance.random() < 0.5:
                    connection.shutdown(socket.SHUT_WR)
                judge_pipelined(tries, connection, [server.expected[text] for text in asked])
    return tries


def judge_pipelined(tries: Tries, connection: socket.socket, expected: list[str]) -> None:
    received = b""
    with suppress(TimeoutError, ConnectionError):
        while received.count(b'"object":"list"') < len(expected) and (chunk := connection.recv(1 << 16)):
            received += chunk
    found = re.findall(rb'"embedding":"([^"]+)"', received)
    for place, vector in enumerate(expected):
        if place >= len(found):
            tries["lost"] += 1
        else:
            tries["right" if found[place].decode() == vector else "wrong"] += 1


def idle(number: int, chance: random.Random) -> Tries:
    """Silent and half-open connections, more than the server may open files."""
    tries = Tries()
    prefix = ["prlimit", "--nofile=256:256"]
    with Server("--cache", "none", prefix=prefix) as server, ExitStack() as all_:
        for place in range(400):
            connection = all_.enter_context(server.connect())
            if place % 2:
                with suppress(OSError):
                    connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost:")
        ask_all(server, tries, number)
    return tries


def half_open(number: int, chance: random.Random) -> Tries:
    """10,000 half-open clients: a good one waits under 100 ms, and the server takes under 100 MiB."""
    tries = Tries()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16_384) if hard > 0 else 16_384, hard))
    clients = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200)
    with Server(prefix=["prlimit", "--nofile=16384:16384"]) as server, ExitStack() as all_:
        before = server.memory("VmRSS")
        for _ in range(clients):
            connection = all_.enter_context(server.connect())
            with suppress(OSError):
                connection.sendall(b"GET /health HTTP/1.1\r\nhost:")
        waits = []
        for place in range(number):
            began = time.perf_counter()
            tries.good(server, TEXTS[place % 40], request_of({"input": TEXTS[place % 40], "encoding_format": "base64"}))
            waits.append(time.perf_counter() - began)
        taken = server.memory("VmRSS") - before
        tries["wrong"] += taken > HALF_OPEN_BYTES
        if number > FEW:  # how fast a machine is decides no quick run
            tries["hung"] += sum(wait > HALF_OPEN_SECONDS for wait in waits)
        note("half_open", f"{clients} clients: {taken / MIB:.0f} MiB, longest wait {max(waits) * 1000:.0f} ms")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return tries


def memory(number: int, chance: random.Random) -> Tries:
    """Single requests of the allowed size: what they take above idle at most, and what is left of it."""
    tries = Tries()
    size = (32 if number > FEW else 8) * MIB - 200
    bodies = {
        "one text": b'{"input": "' + b"a b " * (size // 4) + b'"}',
        "one text, cut": b'{"truncate": true, "input": "' + b"a b " * (size // 4) + b'"}',
        "one word": b'{"input": "' + b"a" * size + b'"}',
        "2,048 texts": b'{"input": [' + b",".join([b'"' + b"ab " * (size // 6500) + b'"'] * 2048) + b"]}",
        "other letters": b'{"input": "' + "å b ".encode() * (size // 5) + b'"}',
        WIDE: b'{"input": "' + b"a b " * (size // 4) + "😀".encode() + b'"}',
        "numbers": b'{"input": [' + b"1," * (size // 2) + b"1]}",
        "fields": b'{"input": "a"' + b"".join(b',"%d":1' % n for n in range(size // 12)) + b"}",
        "nested": b'{"input": ' + b"[" * (size // 2) + b"]" * (size // 2) + b"}",
        "spaces": b'{"input": "' + b" " * size + b'x"}',
        "escapes": b'{"input": "' + b"\\u00e5" * (size // 6) + b'"}',
    }
    with Server("--cache", "none") as server:
        ask_all(server, tries, 10)
        time.sleep(2)
        for name, body in bodies.items():
            idle_bytes = server.memory("VmRSS")
            server.forget_peak()
            began = time.perf_counter()
            with server.connect(120) as connection:
                send(tries, connection, body)
            seconds = time.perf_counter() - began
            took = server.memory("VmHWM") - idle_bytes
            end = time.monotonic() + 5  # the server gives memory back after a second of rest
            while (kept := server.memory("VmRSS") - idle_bytes) > MEMORY_BESIDE and time.monotonic() < end:
                time.sleep(0.1)
            bound = (WIDE_SHARE if name == WIDE else MEMORY_SHARE) * len(body) + MEMORY_BESIDE
            tries["wrong"] += took > bound or kept > MEMORY_BESIDE
            note(
                "memory",
                f"{name}: {len(body) / MIB:.0f} MiB took {took / MIB:.0f} (bound {bound / MIB:.0f}), kept "
                f"{kept / MIB:.0f} MiB, {seconds:.1f} s",
            )
            ask_all(server, tries, 2)
    return tries


def send(tries: Tries, connection: socket.socket, body: bytes) -> None:
    """A request that may be answered."""
    connection.sendall(request_of(body))
    status, _ = read_reply(connection)
    tries["right" if status == 200 else "refused" if status < 500 else "wrong"] += 1


def memory_limit(number: int, chance: random.Random) -> Tries:
    """A server whose address space is nearly used up."""
    tries = Tries()
    with Server("--cache", "none") as server:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        size = int((re.search(r"VmSize:\s+(\d+)", status) or ["", "0"])[1]) * 1024
        subprocess.run(["prlimit", f"--pid={server.process.pid}", f"--as={size + 24 * MIB}:unlimited"], check=True)
        for place in range(number):
            text = "long words of a request " * chance.randrange(100, 60_000)
            with suppress(TimeoutError), server.connect() as connection:
                try:
                    send_many(tries, connection, [f"{place} {text}"] * chance.randrange(1, 20))
                except ConnectionError:
                    tries["refused" if server.process.poll() is None else "lost"] += 1
            if server.process.poll() is not None:
                tries["lost"] += 1
                return tries
        subprocess.run(["prlimit", f"--pid={server.process.pid}", "--as=unlimited:unlimited"], check=True)
        ask_all(server, tries, 10)
    return tries


def send_many(tries: Tries, connection: socket.socket, texts: list[str]) -> None:
    connection.sendall(request_of({"input": texts, "truncate": True}))
    status, body = read_reply(connection)
    tries["right" if status == 200 else "refused" if "error" in body else "wrong"] += 1


def damage(number: int, chance: random.Random) -> Tries:
    """Files of the disk tier that are flipped, zeroed, cut or removed while the server uses them."""
    tries = Tries()
    with scratch() as folder, Server("--cache", f"disk://{folder}/cache?size=64MiB") as server:
        for place in range(number):
            files = [
                file
                for file in (folder / "cache").rglob("*")
                if file.suffix in (".seg", ".mdb") and file.stat().st_size
            ]
            if files and place % 3 == 0:
                damage_file(chance.choice(files), chance)
            text = chance.choice(TEXTS)
            tries.good(server, text, request_of({"input": text, "encoding_format": "base64"}))
    return tries


def damage_file(file: Path, chance: random.Random) -> None:
    size = file.stat().st_size
    kind = chance.randrange(4)
    if kind == 0:
        os.truncate(file, chance.randrange(size))
    elif kind == 1 and file.suffix == ".seg":
        file.unlink()
    else:
        with suppress(OSError), file.open("r+b") as opened:
            opened.seek(chance.randrange(size))
            opened.write(bytes(4096) if kind == 2 else chance.randbytes(8))


KINDS: dict[str, tuple[Kind, int, int]] = {  # with the tries of a quick run and of a whole one
    "slow": (slow, 20, 200),
    "vanishing": (vanishing, 40, 400),
    "never_reading": (never_reading, 20, 100),
    "garbage": (garbage, 60, 600),
    "pipelining": (pipelining, 40, 400),
    "idle": (idle, 20, 100),
    "half_open": (half_open, 20, 100),
    "memory": (memory, 10, 100),
    "memory_limit": (memory_limit, 15, 100),
    "damage": (damage, 60, 600),
}
NOTES: list[str] = []


def note(kind: str, text: str) -> None:
    NOTES.append(f"{kind}: {text}")


@contextmanager
def scratch() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="inlay-faults-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    columns = ("tries", "right", "refused", "wrong", "lost", "hung")
    print(f"{'kind':14}" + "".join(f"{column:>9}" for column in (*columns, "seconds")), flush=True)
    has_failed = False
    for name in arguments.kinds.split(","):
        kind, few, many = KINDS[name]
        began = time.monotonic()
        tries = kind(few if arguments.quick else many, random.Random(arguments.seed))
        counts = [sum(tries.values()), *(tries[column] for column in columns[1:]), round(time.monotonic() - began)]
        print(f"{name:14}" + "".join(f"{count:9}" for count in counts), flush=True)
        has_failed |= any(tries[column] for column in ("wrong", "lost", "hung"))
    print("\n".join(NOTES))
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
