"""More than a server can do, requests by chance, a clock that jumps, a balancer before servers that are restarted."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import statistics
import subprocess
import time
from collections import Counter
from contextlib import suppress
from threading import Event, Lock, Thread
from typing import Any

import orjson
from files import Disk
from kind import Run
from server import TEXTS
from tries import Tries, asking, exchange, is_refusal, read_reply, request_of, until

MIB = 1 << 20
SLOPE = 1.0  # MiB an hour, at most
WARM_UP = 0.25  # of the time, that is not looked at
OVERLOAD = 10
HOUR = 3600.0


def overload(run: Run) -> None:
    """Ten times what the server can do, of all sizes: admitted requests wait for a bounded time, memory is flat."""
    seconds = 10.0 if run.is_quick else float(os.environ.get("OVERLOAD_SECONDS", HOUR))
    server = run.own_server(
        "--max-concurrent-requests", "64", "--max-queue-tokens", "16384", "--cache", "memory://16MiB"
    )
    latencies: list[float] = []
    memory: list[tuple[float, int]] = []
    is_over, lock = Event(), Lock()

    def client(number: int) -> None:
        chance = random.Random(number)
        while not is_over.is_set():
            words = " ".join(["word"] * int(chance.paretovariate(0.9) * 4 % 300 + 1))
            texts = [f"{chance.random()} {words}" for _ in range(chance.choice((1, 1, 1, 2, 8, 32)))]
            began = time.monotonic()
            try:
                status, body = exchange(server.address, request_of({"input": texts, "encoding_format": "base64"}))
            except TimeoutError:
                run.tries["hung"] += 1
                continue
            except (ConnectionError, OSError):
                run.tries["lost"] += 1
                continue
            with lock:
                if status == 200:
                    latencies.append(time.monotonic() - began)
                is_good = status == 200 and len(body["data"]) == len(texts)
                run.tries["right" if is_good else "refused" if is_refusal(status, body) else "wrong"] += 1
            if status != 200:
                time.sleep(0.02)  # far sooner than it was told to

    threads = [Thread(target=client, args=(number,), daemon=True) for number in range(OVERLOAD * 16)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        memory.append((passed, server.memory("VmRSS")))
        time.sleep(min(seconds / 100, 5.0))
    is_over.set()
    for thread in threads:
        thread.join(30)
    run.ask_patiently(server, 10)
    p99 = statistics.quantiles(latencies, n=100)[-1]
    refused = run.tries["refused"] / max(run.tries["right"], 1)
    run.say(f"{seconds:.0f} s, {refused:.1f} refused for each admitted, P99 of admitted {p99:.2f} s, {_slope(memory)}")
    run.tries["hung"] += p99 > SLOWEST
    if seconds >= HOUR:
        run.tries["wrong"] += slope_of(memory) > SLOPE


SLOWEST = 15.0  # seconds of an admitted request: a full queue, on a machine that the clients share


def slope_of(memory: list[tuple[float, int]]) -> float:
    """MiB an hour, after the warm-up, by least squares."""
    kept = memory[int(len(memory) * WARM_UP) :]
    line = statistics.linear_regression([passed for passed, _ in kept], [size / MIB for _, size in kept])
    return line.slope * HOUR


def _slope(memory: list[tuple[float, int]]) -> str:
    sizes = [size / MIB for _, size in memory]
    return f"memory {sizes[len(sizes) // 4]:.0f} to {sizes[-1]:.0f} MiB, {slope_of(memory):+.1f} MiB an hour"


VALUES: list[Any] = [
    *(None, True, 0, -1, 1.5, 1e400, 2**63, "", "x", "é" * 50, "\x00", "a b " * 300),
    *([], [[]], ["a"], [1, 2], ["a", None], {}, {"a": 1}, [["a", "b"]], [[1], [2]], "😀", [""], {"text": "a"}),
]
FIELDS = [
    *(
        "input",
        "inputs",
        "model",
        "dimensions",
        "encoding_format",
        "truncate",
        "priority",
        "prompt_name",
        "instruction",
    ),
    *("query", "documents", "texts", "text", "top_n", "return_documents", "normalize", "outputs", "output_dtype"),
    *("user", "prompt", "options", "corpus", "top_k", "filter", "raw_scores", "task", "input_type", "embedding_types"),
    *("tokens", "sentences", "messages", "fallback", "on_error", "expect_fingerprint", "truncation", "late_chunking"),
]


def fuzz(run: Run) -> None:
    """Bodies by chance on every route: no 5xx but a stated refusal, and a reason in each that is refused."""
    server = run.server()
    with server.connect() as connection:
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        received = b""
        while chunk := connection.recv(1 << 18):
            received += chunk
    described = json.loads(received.partition(b"\r\n\r\n")[2])["paths"]
    paths = [path for path, methods in described.items() if "post" in methods and "{" not in path]
    lock, statuses = Lock(), Counter[int]()
    each = run.number // FUZZERS

    def send(number: int) -> None:
        chance, own = random.Random(f"{run.chance.random()} {number}"), Counter[str]()
        connection = server.connect(60)
        for _ in range(each):
            try:
                connection.sendall(request_of(_body(chance), path=chance.choice(paths)))
                status, body = read_reply(connection)
                own["right" if status < 400 else "refused" if is_told(status, body) else "wrong"] += 1
                statuses[status] += 1
            except TimeoutError:
                own["hung"] += 1
            except ConnectionError:  # every request is HTTP as it should be
                own["lost"] += 1
            except ValueError:
                own["wrong"] += 1
                connection.close()
            else:
                continue
            connection = server.connect(60)
        connection.close()
        with lock:
            run.tries.update(own)

    threads = [Thread(target=send, args=(number,)) for number in range(FUZZERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.ask(server, 10)
    told = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    run.say(f"{len(paths)} routes, by status {told}")


def is_told(status: int, body: Any) -> bool:  # noqa: ANN401 - JSON
    """Does a refusal say why, in the words of some dialect? Of 5xx only those that say to come back may be."""
    reason = isinstance(body, dict) and (body.get("error") or body.get("message") or body.get("detail"))
    return bool(reason) and (status < 500 or status in (503, 504))


FUZZERS = 4
GOOD: list[dict[str, Any]] = [
    {"input": "a"},
    {"input": ["a", "b c"]},
    {"inputs": ["a"]},
    {"query": "a", "documents": ["b", "c"]},
    {"query": "a", "texts": ["b"]},
    {"texts": ["a"], "model": "demo", "input_type": "search_query"},
    {"model": "demo", "prompt": "a"},
    {"model": "demo", "prompt": "a", "input": "b"},
    {"tokens": [101, 102]},
]


def _body(chance: random.Random) -> bytes:
    """JSON with fields that some dialect has, and sometimes no JSON."""
    fields = {name: chance.choice(VALUES) for name in chance.sample(FIELDS, chance.randrange(1, 6))}
    if chance.random() < 0.5:
        fields = {**dict(list(fields.items())[:2]), **chance.choice(GOOD)}
    with suppress(TypeError, orjson.JSONEncodeError):
        body = bytearray(orjson.dumps(fields))
        if chance.random() < 0.3:
            for _ in range(chance.randrange(1, 4)):
                body[chance.randrange(len(body))] = chance.randrange(256)
        return bytes(body)
    return json.dumps(fields).encode()


def clock_jumps(run: Run) -> None:
    """The wall clock goes a day forward and two days back: nothing waits for it, and nothing expires by it."""
    disk = Disk(run)
    known = run.server().expected
    cache = f"disk://{disk.path}/cache?size=64MiB"
    server = run.own_server("--cache", cache, env=disk.env, expected=known)
    for offset in (0, 86_400, -172_800, 0):
        disk.have(str(offset))
        for place in range(run.number):
            text = TEXTS[place % len(TEXTS)]
            headers = "" if place % 2 else "cache-control: no-cache\r\n"
            run.tries.good(server.address, server.expected[text], asking(text, headers))
    run.tries.note(server.is_ready())


def rolling_restart(run: Run) -> None:
    """Two servers behind HAProxy, restarted one after the other under load: no request is lost, and none refused."""
    folder = run.folder()
    servers = [run.own_server("--cache", "none", "--shutdown-delay", "2") for _ in range(2)]
    expected = servers[0].expected
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "haproxy.cfg").write_text(_balancer(port, [server.address[1] for server in servers]))
    balancer = subprocess.Popen(["haproxy", "-f", str(folder / "haproxy.cfg")], stderr=subprocess.DEVNULL)
    run.held.callback(balancer.kill)
    address = ("127.0.0.1", port)
    until(lambda: _is_up(address), 20)
    is_over, tries = Event(), Tries()

    def ask(number: int) -> None:
        place = number
        while not is_over.is_set():
            text, place = TEXTS[place % len(TEXTS)], place + 1
            tries.good(address, expected[text], asking(text))

    threads = [Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for place in range(run.number):
        old = servers[place % 2]
        old.process.send_signal(signal.SIGTERM)
        old.process.wait(60)
        servers[place % 2] = run.own_server(
            "--cache", "none", "--shutdown-delay", "2", expected=expected, port=old.address[1]
        )
        time.sleep(1.5)  # until the balancer has seen it
    is_over.set()
    for thread in threads:
        thread.join()
    tries["lost"] += tries.pop("refused", 0)  # between two servers there is always one
    run.tries.update(tries)


def _balancer(port: int, ports: list[int]) -> str:
    lines = [f"  server s{n} 127.0.0.1:{one} check inter 200ms fall 1 rise 1" for n, one in enumerate(ports)]
    return (
        "defaults\n  mode http\n  timeout connect 2s\n  timeout client 60s\n  timeout server 60s\n  retries 3\n"
        "  option redispatch\n  retry-on conn-failure empty-response 503\n"
        f"frontend f\n  bind 127.0.0.1:{port}\n  default_backend b\n"
        "backend b\n  balance leastconn\n  option httpchk GET /ready\n" + "\n".join(lines) + "\n"
    )


def _is_up(address: tuple[str, int]) -> bool:
    with suppress(OSError, ValueError):
        return exchange(address, asking("a"), 5)[0] == 200
    return False


def flooded_first(run: Run) -> None:
    """The first model has more to do than it can: who allows it is answered by the second, marked."""
    server = run.own_server(
        *("demo", "--served-model-name", "first", "--served-model-name", "second", "--cache", "none"),
        *("--fallback", "first=second", "--fallback-wait", "0.1"),
        expected={},
    )
    is_over = Event()

    def flood() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            texts = [f"{number} {row} " + "word " * 120 for row in range(128)]
            with suppress(OSError, ValueError):
                exchange(server.address, request_of({"model": "first", "input": texts, "encoding_format": "base64"}))

    threads = [Thread(target=flood, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    models = Counter[str]()
    for place in range(run.number):
        asked = {"model": "first", "input": f"urgent {place}", "fallback": True}
        try:
            status, body = exchange(server.address, request_of(asked, headers="x-request-deadline-ms: 5000\r\n"))
        except (TimeoutError, ConnectionError):
            run.tries["lost"] += 1
            continue
        models[str(body.get("model"))] += 1
        is_right = status == 200 and body["model"] == "second"
        run.tries["right" if is_right else "refused" if is_refusal(status, body) else "wrong"] += 1
    is_over.set()
    for thread in threads:
        thread.join(30)
    run.say(", ".join(f"{name} answered {count}" for name, count in models.items()))
