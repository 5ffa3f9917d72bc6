"""Clients that do what they should not, while good ones ask."""

from __future__ import annotations

import json
import re
import socket
import struct
import time
from contextlib import ExitStack, suppress
from threading import Thread

from kind import Run
from server import TEXTS, Server
from tries import Tries, asking, exchange, is_refusal, read_reply, request_of

FEW_PLACES = ("--max-concurrent-requests", "8", "--body-timeout", "1", "--head-timeout", "2", "--cache", "none")
HALF_OPEN_BYTES, HALF_OPEN_SECONDS = 100 << 20, 0.1


def slow(run: Run) -> None:
    """Bodies that stop half-way, as many as there are places, and more."""
    server = run.server(*FEW_PLACES)
    with ExitStack() as all_:
        connections = [all_.enter_context(server.connect()) for _ in range(run.number)]
        for connection in connections:
            connection.sendall(request_of({"input": "x" * 100}, length=run.chance.randrange(1000, 100_000)))
        run.ask(server)
        for connection in connections:
            run.tries.bad(connection, b"")


def slow_heads(run: Run) -> None:
    """Heads that come a byte at a time, and never end."""
    server = run.server(*FEW_PLACES)
    with ExitStack() as all_:
        connections = [all_.enter_context(server.connect()) for _ in range(run.number)]
        for byte in b"POST /v1/embeddings":
            for connection in connections:
                with suppress(OSError):
                    connection.sendall(bytes([byte]))
        run.ask(server)
        for connection in connections:
            run.tries.bad(connection, b"")


def vanishing(run: Run) -> None:
    """Clients that close at any point of their request, or of its reply."""
    server = run.server(*FEW_PLACES)
    for place in range(run.number):
        whole = request_of({"input": [f"gone {place} {i}" for i in range(20)]})
        with server.connect(0.2) as connection:
            connection.sendall(whole[: run.chance.randrange(len(whole) + 1)])
            if run.chance.random() < 0.3:
                with suppress(OSError):
                    connection.recv(100)
        if place % 4 == 0:
            run.ask(server, 2)
    run.ask(server, 10)


def resetting(run: Run) -> None:
    """Clients that end their connection with a reset, at any point."""
    server = run.server(*FEW_PLACES)
    for place in range(run.number):
        whole = request_of({"input": [f"reset {place} {i}" for i in range(8)]})
        with server.connect(0.2) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(whole[: run.chance.randrange(1, len(whole) + 1)])
    run.ask(server)


def cancelling(run: Run) -> None:
    """Many clients that ask for much and go at once: what nobody waits for any more keeps nobody waiting."""
    server = run.server(*FEW_PLACES)
    for place in range(run.number):
        with server.connect() as connection:
            connection.sendall(request_of({"input": [f"{place} {i} " + "word " * 100 for i in range(64)]}))
    run.ask(server)


def never_reading(run: Run) -> None:
    """Clients that send requests one after the other and read none of the replies."""
    server = run.server(*FEW_PLACES)
    with ExitStack() as all_:
        for _ in range(min(run.number, 24)):
            connection = all_.enter_context(server.connect(0.2))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with suppress(OSError):
                for _ in range(20):
                    connection.sendall(request_of({"input": TEXTS}))
        time.sleep(1)
        run.ask(server)


def slow_readers(run: Run) -> None:
    """Clients that take their replies a few bytes at a time, and get all of them."""
    server = run.server(*FEW_PLACES)
    with ExitStack() as all_:
        readers = [all_.enter_context(server.connect()) for _ in range(6)]
        for connection, text in zip(readers, TEXTS, strict=False):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.sendall(asking(text))
        run.ask(server)
        for connection, text in zip(readers, TEXTS, strict=False):
            run.tries.judge(*read_slowly(connection), server.expected[text])


def read_slowly(connection: socket.socket) -> tuple[int, object]:
    received = b""
    while not received.endswith(b"}}") and (chunk := connection.recv(97)):
        received += chunk
        time.sleep(0.001)
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def garbage(run: Run) -> None:
    """Bytes that are no HTTP, heads without end, bodies that are no JSON or not the right one."""
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
    server = run.server()
    for place in range(run.number):
        sent = run.chance.choice(heads) if place % 2 else request_of(run.chance.choice(bodies))
        if place % 5 == 4:
            sent = run.chance.randbytes(run.chance.randrange(1, 3000)) + b"\r\n\r\n"
        with server.connect() as connection:
            run.tries.bad(connection, sent)
    run.ask(server, 10)


def framing(run: Run) -> None:
    """Two lengths, a length beside chunks, chunks that are none: what proxies and servers read differently."""
    heads = [
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "content-length: -1\r\n",
        "content-length: 0x10\r\n",
        "content-length: 99999999999999999999\r\n",
    ]
    chunks = [
        b"zz\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloworld\r\n0\r\n\r\n",
        b"fffffffff\r\n",
    ]
    server = run.server(*FEW_PLACES)
    for place in range(run.number):
        more = heads[place % len(heads)] if place % 2 else "transfer-encoding: chunked\r\n"
        body = b"hello" if place % 2 else chunks[place // 2 % len(chunks)]
        with server.connect(5) as connection:
            head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\n{more}\r\n".encode()
            run.tries.bad(connection, head + body)
    run.ask(server, 10)


def large_heads(run: Run) -> None:
    """Paths, headers and numbers of headers beyond all bounds."""
    sent = [
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nx: " + b"b" * 200_000 + b"\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\n" + b"x: y\r\n" * 5000 + b"\r\n",
    ]
    server = run.server()
    for place in range(run.number):
        with server.connect() as connection:
            run.tries.bad(connection, sent[place % len(sent)])
    run.ask(server, 10)


def encoded(run: Run) -> None:
    """Bodies that are compressed, or said to be: a small one could become any size."""
    import gzip

    bomb = gzip.compress(b'{"input": "' + b" " * (50 << 20) + b'"}')
    server = run.server()
    before = server.memory("VmRSS")
    for place in range(run.number):
        body = bomb if place % 2 else b"not compressed at all"
        with server.connect() as connection:
            run.tries.bad(connection, request_of(body, headers="content-encoding: gzip\r\n"))
    run.tries.note(server.memory("VmRSS") - before < 64 << 20)
    run.ask(server, 10)


def expecting(run: Run) -> None:
    """Clients that wait for 100-continue and then send no body."""
    server = run.server(*FEW_PLACES)
    with ExitStack() as all_:
        waiting = [all_.enter_context(server.connect()) for _ in range(run.number)]
        for connection in waiting:
            head = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 500\r\n\r\n"
            connection.sendall(head)
        run.ask(server)
        for connection in waiting:
            run.tries.bad(connection, b"")


def pipelining(run: Run) -> None:
    """Requests sent before the last one was answered, in pieces of any size, and then one's own side closed."""
    server = run.server(*FEW_PLACES)
    for _ in range(max(run.number // 8, 1)):
        asked = [run.chance.choice(TEXTS) for _ in range(8)]
        whole = b"".join(asking(text, "") for text in asked)
        with server.connect() as connection:
            while whole:
                piece = run.chance.randrange(1, 400)
                connection.sendall(whole[:piece])
                whole = whole[piece:]
            if run.chance.random() < 0.5:
                connection.shutdown(socket.SHUT_WR)
            _judge_pipelined(run.tries, connection, [server.expected[text] for text in asked])


def _judge_pipelined(tries: Tries, connection: socket.socket, expected: list[str]) -> None:
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


def idle(run: Run) -> None:
    """Silent and half-open connections, more than the server may open files."""
    server = run.own_server("--cache", "none", prefix=["prlimit", "--nofile=256:256"])
    with ExitStack() as all_:
        for place in range(400):
            connection = all_.enter_context(server.connect())
            if place % 2:
                with suppress(OSError):
                    connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost:")
        run.ask(server)


def half_open(run: Run) -> None:
    """10,000 half-open clients: a good one waits under 100 ms, and the server takes under 100 MiB."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16_384) if hard > 0 else 16_384, hard))
    clients = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200)
    server = run.own_server(prefix=["prlimit", "--nofile=16384:16384"])
    with ExitStack() as all_:
        before = server.memory("VmRSS")
        for _ in range(clients):
            connection = all_.enter_context(server.connect())
            with suppress(OSError):
                connection.sendall(b"GET /health HTTP/1.1\r\nhost:")
        waits = []
        for place in range(run.number):
            began = time.perf_counter()
            run.tries.good(server.address, server.expected[TEXTS[place % 40]], asking(TEXTS[place % 40], ""))
            waits.append(time.perf_counter() - began)
        taken = server.memory("VmRSS") - before
        run.tries["wrong"] += taken > HALF_OPEN_BYTES
        if not run.is_quick:  # how fast a machine is decides no quick run
            run.tries["hung"] += sum(wait > HALF_OPEN_SECONDS for wait in waits)
        run.say(f"{clients} clients: {taken / (1 << 20):.0f} MiB, longest wait {max(waits) * 1000:.0f} ms")
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def line_readers(run: Run) -> None:
    """Clients that take replies line by line and go after a few of them."""
    server = run.server(*FEW_PLACES)
    for place in range(run.number):
        body = {"input": [f"line {place} {i}" for i in range(200)]}
        with server.connect() as connection:
            connection.sendall(request_of(body, headers="accept: application/x-ndjson\r\n"))
            connection.recv(run.chance.randrange(1, 4000))
    run.ask(server)


def deadlines(run: Run) -> None:
    """Requests with a few milliseconds to live: right, or said to be too late."""
    server = run.server(*FEW_PLACES)
    for place in range(run.number):
        text = TEXTS[place % len(TEXTS)]
        headers = f"cache-control: no-cache\r\nx-request-deadline-ms: {run.chance.randrange(1, 60)}\r\n"
        run.tries.good(server.address, server.expected[text], asking(text, headers))
    run.ask(server, 10)


def quotas(run: Run) -> None:
    """A key that has spent its tokens is told when to come back; another goes on."""
    folder = run.folder()
    (folder / "keys.toml").write_text(
        '[[keys]]\nname = "a"\nkey = "spender"\ntokens_per_minute = 60\n\n[[keys]]\nname = "b"\nkey = "other"\n'
    )
    known = run.server().expected  # by a server without keys
    server = run.own_server("--api-key-file", str(folder / "keys.toml"), expected=known)
    for place in range(run.number):
        text = TEXTS[place % len(TEXTS)]
        for key in ("spender", "other"):
            asked = asking(text, f"authorization: Bearer {key}\r\ncache-control: no-cache\r\n")
            status, body = exchange(server.address, asked)
            run.tries.judge(status, body, server.expected[text])
            if key == "other":
                run.tries["wrong"] += status != 200
    run.tries.note(run.tries["refused"] > 0)


def many_at_once(run: Run) -> None:
    """As many clients as there are places, many times over, all at the same moment."""
    server = run.server(*FEW_PLACES)
    threads = [
        Thread(target=run.tries.good, args=(server.address, server.expected[text], asking(text)))
        for _ in range(max(run.number // 20, 2))
        for text in TEXTS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


MEMORY_SHARE, MEMORY_BESIDE = 1.5, 64 << 20  # what a request may take: so many times its size, and this
WIDE, WIDE_SHARE = "wide letters", 6.0  # a text with a character beyond U+FFFF has four bytes for each of its others
MIB = 1 << 20


def memory(run: Run) -> None:
    """Single requests of the allowed size: what they take above idle at most, and what is left of it."""
    size = (8 if run.is_quick else 32) * MIB - 200
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
    server = run.own_server("--cache", "none")
    run.ask(server, 10)
    time.sleep(2)
    for name, body in bodies.items():
        share = WIDE_SHARE if name == WIDE else MEMORY_SHARE
        run.say(f"{name}: {_measure(run, server, body, share * len(body) + MEMORY_BESIDE)}")
        run.ask(server, 2)


def _measure(run: Run, server: Server, body: bytes, bound: float) -> str:
    idle_bytes = server.memory("VmRSS")
    server.forget_peak()
    began = time.perf_counter()
    with server.connect(120) as connection:
        connection.sendall(request_of(body))
        status, _ = read_reply(connection)
    run.tries["right" if status == 200 else "refused" if status < 500 else "wrong"] += 1
    seconds = time.perf_counter() - began
    took = server.memory("VmHWM") - idle_bytes
    end = time.monotonic() + 5  # the server gives memory back after a second of rest
    while (kept := server.memory("VmRSS") - idle_bytes) > MEMORY_BESIDE and time.monotonic() < end:
        time.sleep(0.1)
    run.tries["wrong"] += took > bound or kept > MEMORY_BESIDE
    return (
        f"{len(body) / MIB:.0f} MiB took {took / MIB:.0f} (bound {bound / MIB:.0f}), kept {kept / MIB:.0f} MiB, "
        f"{seconds:.1f} s"
    )


def memory_limit(run: Run) -> None:
    """A server whose address space is nearly used up."""
    import subprocess
    from pathlib import Path

    server = run.own_server("--cache", "none")
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    size = int((re.search(r"VmSize:\s+(\d+)", status) or ["", "0"])[1]) * 1024
    subprocess.run(["prlimit", f"--pid={server.process.pid}", f"--as={size + 24 * MIB}:unlimited"], check=True)
    for place in range(run.number):
        text = "long words of a request " * run.chance.randrange(100, 60_000)
        body = {"input": [f"{place} {text}"] * run.chance.randrange(1, 20), "truncate": True}
        with suppress(TimeoutError):
            try:
                told, reply = exchange(server.address, request_of(body))
                run.tries["right" if told == 200 else "refused" if is_refusal(told, reply) else "wrong"] += 1
            except ConnectionError:
                run.tries["refused" if server.is_running() else "lost"] += 1
        if not server.is_running():
            run.tries["lost"] += 1
            return
    subprocess.run(["prlimit", f"--pid={server.process.pid}", "--as=unlimited:unlimited"], check=True)
    run.ask(server, 10)
