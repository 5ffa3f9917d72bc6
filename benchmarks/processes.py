"""What processes of their own cost and bear: engines beside front ends, on this machine.

    python benchmarks/processes.py isolation [--requests 2000]   P50 of one short text: engine in a thread, in a process
    python benchmarks/processes.py front-ends [--seconds 10]     cached requests a second, one front end and two
    python benchmarks/processes.py kills [--kills 100]           kill -9 of an engine under load, again and again

Requests alternate between the servers that are compared. `front-ends` counts the processor's seconds of each front end
(/proc/PID/stat), since the load comes from the same machine and takes a good part of it: what a front end does with a
core of its own is its requests by its seconds, and several do what the busiest of them allows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from children import child_of, children_of, is_running
from servers import RunningServer

TICKS = os.sysconf("SC_CLK_TCK")
CONNECTIONS, BLOCK, WARM = 64, 20, 3
WRK = """wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.body = '{"input": "a text that is in the cache"}'
"""


class Client:
    """One connection: sends a whole request, and reads a whole reply."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._host = host

    def request(self, body: bytes, headers: str = "") -> bytes:
        head = f"POST /v1/embeddings HTTP/1.1\r\nhost: {self._host}\r\n{headers}content-length: {len(body)}\r\n\r\n"
        return head.encode() + body

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and reply."""
        self._socket.sendall(request)
        data = self._socket.recv(1 << 16)
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._socket.recv(1 << 16)
        (length,) = re.findall(rb"content-length: (\d+)", data[:end])
        while len(data) < end + 4 + int(length):
            data += self._socket.recv(1 << 16)
        return int(data[9:12]), data


def check(status: int) -> None:
    if status != 200:
        raise RuntimeError(f"status {status}")


def processor() -> str:
    return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]  # type: ignore[index]


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def time_isolation(requests: int) -> dict[str, Any]:
    """Median milliseconds of one short text that no cache has, in alternation."""
    kinds = ("thread", "process")
    servers = {kind: RunningServer("demo", "--isolation", kind, "--cache", "none") for kind in kinds}
    try:
        clients = {kind: Client(server.url) for kind, server in servers.items()}
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        costs: list[float] = []  # of neighbouring blocks, which the machine treats alike
        for number in range(1 + requests // BLOCK):
            medians = {}
            for kind in kinds if number % 2 else kinds[::-1]:
                times = time_block(clients[kind], number)
                medians[kind] = statistics.median(times)
                seconds[kind] += times if number else []
            costs += [medians["process"] - medians["thread"]] if number else []
        p50 = {kind: statistics.median(times) * 1000 for kind, times in seconds.items()}
        low, cost, high = (quartile * 1000 for quartile in statistics.quantiles(costs, n=4))
        told = {"median_of_blocks": cost, "quartiles": [low, high], "of_p50": p50["process"] - p50["thread"]}
        return {"p50_ms": p50, "cost_ms": told, "requests": requests, "blocks_of": BLOCK}
    finally:
        for server in servers.values():
            server.stop()


def time_block(client: Client, number: int) -> list[float]:
    """Seconds of each request. What waits actively for a while after the block before does not count."""
    times = []
    for place in range(BLOCK + WARM):
        request = client.request(json.dumps({"input": f"a short text {number} {place}"}).encode())
        began = time.perf_counter()
        status, _ = client.ask(request)
        times.append(time.perf_counter() - began)
        check(status)
    return times[WARM:]


def load(url: str, seconds: int) -> int:
    """Requests answered, all of one text that is in the cache; by wrk, the lightest load there is."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(WRK)
        file.flush()
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}", "-s", file.name, f"{url}/v1/embeddings"]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in told:
        raise RuntimeError(told)
    return int(re.findall(r"(\d+) requests in", told)[0])


def time_front_ends(seconds: int, rounds: int = 3) -> dict[str, Any]:
    """Cached requests: by the wall, and by the processor's seconds of the busiest front end."""
    rates: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    arguments = {1: ("--isolation", "process"), 2: ("--front-ends", "2")}
    servers = {number: RunningServer("demo", *given) for number, given in arguments.items()}
    try:
        for _ in range(rounds):
            for number, server in servers.items():
                front_ends = [server.process.pid]
                if number == 2:
                    front_ends = [pid for pid, line in children_of(server.process.pid).items() if "front_end" in line]
                load(server.url, 1)
                before = [cpu_seconds(pid) for pid in front_ends]
                answered = load(server.url, seconds)
                used = [cpu_seconds(pid) - began for pid, began in zip(front_ends, before, strict=True)]
                rates[number].append(
                    {
                        "by_wall": answered / seconds,
                        "by_busiest_core": answered / max(used),
                        "cores_of_front_ends": sum(used) / seconds,
                    }
                )
    finally:
        for server in servers.values():
            server.stop()
    medians = {
        number: {name: statistics.median(one[name] for one in found) for name in found[0]}
        for number, found in rates.items()
    }
    ratios = {name: medians[2][name] / medians[1][name] for name in ("by_wall", "by_busiest_core")}
    return {"requests_per_second": medians, "two_to_one": ratios, "connections": CONNECTIONS, "seconds": seconds}


def time_kills(kills: int) -> dict[str, Any]:
    """Milliseconds until what was under way is refused, seconds until it is ready again, and what is left behind."""
    refusals: list[float] = []
    firsts: list[float] = []
    starts: list[float] = []
    wrong = hits = 0
    with RunningServer("demo", "--isolation", "process") as server:
        hit = {"input": "a text that is in the cache"}
        expected = server.post(hit).json()["data"]
        first = time.monotonic()
        left = [left_behind(server)]
        for number in range(kills):
            found, start, is_right = kill_once(server, number)
            refusals += found
            firsts.append(min(found))
            starts.append(start)
            wrong += not is_right
            hits += server.post(hit).json()["data"] == expected
            if number in (0, kills // 2, kills - 1):
                time.sleep(1)
                left.append(left_behind(server))
        return {
            "kills": kills,
            "refused": len(refusals),
            "refusal_ms": {
                "p50": statistics.median(refusals),
                "p90": statistics.quantiles(refusals, n=10)[-1],
                "max": max(refusals),
                "first_of_each_kill": statistics.median(firsts),
                "within_10_ms": sum(one <= 10 for one in refusals) / len(refusals),
            },
            "ready_seconds": {"p50": statistics.median(starts), "max": max(starts)},
            "wrong": wrong,
            "hits_right": hits,
            "left": left,
            "seconds": time.monotonic() - first,
        }


def kill_once(server: RunningServer, number: int) -> tuple[list[float], float, bool]:
    """Kill the engine while 16 requests are under way."""
    engine = child_of(server, "engine_process")
    hit = Client(server.url).request(json.dumps({"input": "a text that is in the cache"}).encode())
    killed: list[float] = []
    refused: list[float] = []
    is_right = True
    under_way = threading.Semaphore(0)

    def ask(place: int) -> None:
        nonlocal is_right
        client = Client(server.url)
        texts = [f"{number} {place} {row} " + "word " * 200 for row in range(16)]
        under_way.release()
        request = client.request(json.dumps({"input": texts}).encode(), "cache-control: no-store\r\n")
        status, _ = client.ask(request)
        now = time.monotonic()
        if status == 503 and killed:
            refused.append((now - killed[0]) * 1000)
        elif status != 200:
            is_right = False

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(16)]
    for thread in threads:
        thread.start()
    for _ in threads:
        under_way.acquire()
    time.sleep(0.05)
    killed.append(time.monotonic())
    os.kill(engine, signal.SIGKILL)
    for thread in threads:
        thread.join()
    status, reply = Client(server.url).ask(hit)
    is_right &= status == 200 and b"x-inlay-cache: hit" in reply
    until(lambda: httpx.get(f"{server.url}/ready").status_code == 200)
    return refused, time.monotonic() - killed[0], is_right and not is_running(engine)


def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.02)


def left_behind(server: RunningServer) -> dict[str, float]:
    """What the server holds."""
    process = Path(f"/proc/{server.process.pid}")
    resident = re.search(r"VmRSS:\s+(\d+)", (process / "status").read_text())
    return {
        "descriptors": len(list((process / "fd").iterdir())),
        "threads": len(list((process / "task").iterdir())),
        "children": len(children_of(server.process.pid)),
        "MiB": round(int(resident[1]) / 1024, 1) if resident else 0,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("isolation", "front-ends", "kills"))
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    run: dict[str, Callable[[], dict[str, Any]]] = {
        "isolation": lambda: time_isolation(given.requests),
        "front-ends": lambda: time_front_ends(given.seconds),
        "kills": lambda: time_kills(given.kills),
    }
    result = {"processor": processor(), "cores": len(os.sched_getaffinity(0)), **run[given.what]()}
    print(json.dumps(result, indent=2))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
