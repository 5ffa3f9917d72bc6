"""CPU time that the server process spends on a request for one short text answered from memory.

Starts a server of its own, sends 20,000 requests over keep-alive connections from this process, and reads
the server's CPU time from /proc before and after; beside it, the same with a uvicorn app that does nothing,
which is the floor. Prints a table and one JSON line.

    .venv/bin/python benchmarks/front_end_cost.py
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time

from serving import body_of, cpu_seconds, free_port, running


def send(port: int, number: int, body: bytes, latencies: list[float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    headers = {"content-type": "application/json"}
    for _ in range(number):
        began = time.perf_counter()
        connection.request("POST", "/v1/embeddings", body, headers)
        reply = connection.getresponse()
        reply.read()
        latencies.append(time.perf_counter() - began)
        if reply.status != http.client.OK:
            raise SystemExit(f"status {reply.status}")


NOTHING = """
import sys, uvicorn

async def app(scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2200")]})
    await send({"type": "http.response.body", "body": b"x" * 2200})

uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="error", proxy_headers=False, lifespan="off")
"""


def measure(command: list[str], port: int, number: int, connections: int) -> dict[str, float]:
    """Figures of one server, from start to end."""
    body = body_of("What is an inlay?")
    with running(command, port) as server:
        send(port, 200, body, [])
        latencies: list[float] = []
        part = number // connections
        threads = [threading.Thread(target=send, args=(port, part, body, latencies)) for _ in range(connections)]
        before, began = cpu_seconds(server.pid), time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds, cpu = time.perf_counter() - began, cpu_seconds(server.pid) - before
    if len(latencies) != part * connections:
        raise SystemExit(f"only {len(latencies)} of {part * connections} requests were answered")
    latencies.sort()
    return {
        "server_cpu_us_per_request": round(cpu / len(latencies) * 1e6, 1),
        "requests_per_second": round(len(latencies) / seconds),
        "p50_ms": round(latencies[len(latencies) // 2] * 1e3, 3),
        "p99_ms": round(latencies[int(len(latencies) * 0.99)] * 1e3, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=4)
    options = parser.parse_args()
    port = free_port()
    servers = {
        "an app that does nothing": [sys.executable, "-c", NOTHING, str(port)],
        "inlay": [sys.executable, "-m", "inlay", "serve", "demo", "--port", str(port), "--log-level", "warning"],
    }
    figures = {}
    for name, command in servers.items():
        figures[name] = measure(command, port, options.requests, options.connections)
        row = "".join(f"{value:>10}" for value in figures[name].values())
        print(f"{name:28}{row}   (CPU µs, requests/s, P50 ms, P99 ms)")
    print(json.dumps({"requests": options.requests, "connections": options.connections, **figures}))


if __name__ == "__main__":
    main()
