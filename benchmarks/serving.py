"""What the benchmarks of servers share: a server on a free port, and a load from a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")
CLIENT_SECONDS = 900


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all threads, from /proc/PID/stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_ready(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            break
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/ready")
            if connection.getresponse().status == http.client.OK:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit("the server did not become ready")


@contextmanager
def running(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server that is ready; ended in good order."""
    server = subprocess.Popen(command)
    try:
        wait_ready(port, server)
        yield server
        if server.poll() is not None:
            raise SystemExit("the server ended by itself")
    finally:
        server.terminate()
        server.wait()


def inlay_serve(port: int, *arguments: str, model: str = "demo") -> list[str]:
    return [sys.executable, "-m", "inlay", "serve", model, "--port", str(port), "--log-level", "error", *arguments]


def body_of(texts: str | list[str], model: str | None = None) -> bytes:
    return json.dumps({"input": texts, "model": model, "encoding_format": "base64"}).encode()


def load(port: int, bodies: list[bytes], connections: int, prefix: list[str] | None = None) -> dict[str, Any]:
    """Send all bodies once over so many connections, from a client process; its figures."""
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as schedule:
        schedule.write(b"\n".join(bodies))
        schedule.flush()
        url = f"http://127.0.0.1:{port}"
        client = [sys.executable, "-m", "inlay.bench.load", url, schedule.name, str(connections)]
        command = [*(prefix or []), *client]
        done = subprocess.run(command, check=True, capture_output=True, timeout=CLIENT_SECONDS)
    figures: dict[str, Any] = json.loads(done.stdout)
    if figures["errors"] or figures["requests"] != len(bodies):
        raise SystemExit(f"not all of {len(bodies)} requests were answered: {figures['errors']}")
    return figures


def print_table(rows: dict[str, dict[str, Any]]) -> None:
    """A line for each row, and all of it as one line of JSON."""
    columns = list(next(iter(rows.values())))
    print(" " * 34 + "".join(f"{column:>14}" for column in columns))
    for name, figures in rows.items():
        print(f"{name:34}" + "".join(f"{figures[column]!s:>14}" for column in columns))
    print(json.dumps(rows))
