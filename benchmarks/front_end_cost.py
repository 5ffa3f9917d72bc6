"""CPU time that the server process spends on a request for one short text answered from memory.

Starts a server of its own, sends 20,000 requests over keep-alive connections from this process, and reads
the server's CPU time from /proc before and after. Prints a table and one JSON line.

    .venv/bin/python benchmarks/front_end_cost.py
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all threads, from /proc/PID/stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def wait_ready(port: int) -> None:
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/ready")
            if connection.getresponse().status == http.client.OK:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit("the server did not become ready")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--port", type=int, default=8123)
    options = parser.parse_args()
    command = [sys.executable, "-m", "inlay", "serve", "demo", "--port", str(options.port), "--log-level", "warning"]
    server = subprocess.Popen(command)
    try:
        wait_ready(options.port)
        body = json.dumps({"input": "What is an inlay?", "model": "demo", "encoding_format": "base64"}).encode()
        send(options.port, 200, body, [])
        latencies: list[float] = []
        per_connection = options.requests // options.connections
        threads = [
            threading.Thread(target=send, args=(options.port, per_connection, body, latencies))
            for _ in range(options.connections)
        ]
        before, began = cpu_seconds(server.pid), time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds, cpu = time.perf_counter() - began, cpu_seconds(server.pid) - before
    finally:
        server.terminate()
        server.wait()
    number = len(latencies)
    latencies.sort()
    figures = {
        "requests": number,
        "connections": options.connections,
        "server_cpu_us_per_request": round(cpu / number * 1e6, 1),
        "requests_per_second": round(number / seconds),
        "p50_ms": round(latencies[number // 2] * 1e3, 3),
        "p99_ms": round(latencies[int(number * 0.99)] * 1e3, 3),
    }
    for name, value in figures.items():
        print(f"{name:28}{value:>12}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
