"""CPU time that the server process spends on a request for one short text answered from memory.

Starts each server on the first core and `wrk` (Debian's package; a load as light as there is) with 8 connections on the
second, and reads the server's CPU time from /proc. Beside a uvicorn app that does nothing, which is the floor: the same
body again and again, and bodies that differ although their text is cached. Prints a table and one JSON line.

    .venv/bin/python benchmarks/front_end_cost.py
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from serving import cpu_seconds, free_port, running

NOTHING = """
import sys, uvicorn

async def app(scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2200")]})
    await send({"type": "http.response.body", "body": b"x" * 2200})

uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="error", proxy_headers=False, lifespan="off")
"""
BODY = '{"model":"demo","input":"What is an inlay?","encoding_format":"base64","user":"%d"}'
SAME = f"""
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.body = string.format('{BODY}', 0)
"""
DIFFERENT = f"""
local number = 0
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
request = function()
  number = number + 1
  return wrk.format(nil, nil, nil, string.format('{BODY}', number))
end
"""
PATH = "/v1/embeddings"


def load(port: int, script: str, seconds: int, connections: int) -> int:
    """Requests that were answered; all must have been answered well."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "load.lua"
        file.write_text(script)
        wrk = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}", "-s", str(file)]
        shown = subprocess.run(
            [*wrk, f"http://127.0.0.1:{port}{PATH}"], check=True, capture_output=True, text=True
        ).stdout
    found = re.search(r"(\d+) requests in", shown)
    if found is None or "Non-2xx" in shown or "Socket errors" in shown:
        raise SystemExit(shown)
    return int(found[1])


def measure(pid: int, port: int, script: str, options: argparse.Namespace) -> dict[str, float]:
    load(port, script, 1, options.connections)
    before = cpu_seconds(pid)
    number = load(port, script, options.seconds, options.connections)
    return {
        "server_cpu_us_per_request": round((cpu_seconds(pid) - before) / number * 1e6, 1),
        "requests_per_second": round(number / options.seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=8)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("there is no wrk: install it (Debian: wrk)")
    figures: dict[str, dict[str, float]] = {}
    port, pinned = free_port(), ["taskset", "-c", "0"]
    with running([*pinned, sys.executable, "-c", NOTHING, str(port)], port) as server:
        figures["an app that does nothing"] = measure(server.pid, port, SAME, options)
    command = [sys.executable, "-m", "inlay", "serve", "demo", "--port", str(port), "--log-level", "warning"]
    with running([*pinned, *command], port) as server:
        figures["inlay, the same body"] = measure(server.pid, port, SAME, options)
        figures["inlay, other bodies"] = measure(server.pid, port, DIFFERENT, options)
    floor = figures["an app that does nothing"]
    for name, found in figures.items():
        ratios = [found[key] / floor[key] for key in floor]
        print(
            f"{name:28}"
            + "".join(f"{value:10}{ratio:8.2f} x" for value, ratio in zip(found.values(), ratios, strict=True))
        )
    print(json.dumps({"connections": options.connections, **figures}))


if __name__ == "__main__":
    main()
