"""Inlay's server beside Infinity's: the demo model over HTTP, new short texts, one a request.

The servers take turns, each in a virtual environment of its own, which this script makes (gigabytes, some minutes,
once); `inlay bench server` loads them from a process of its own. Prints the medians of the rounds with ours ÷ theirs,
and one JSON line.

    .venv/bin/python benchmarks/peers/compare_servers.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from environments import ENVIRONMENTS, python_of

from inlay.bench.card import machine_card
from inlay.models.source import locate

PORT = 8765
READY_SECONDS = 120
INFINITY_PACKAGES = "infinity-emb[server,torch]"
FIGURES = ("qps", "p50_ms", "p99_ms")


def commands(environments: Path) -> dict[str, list[str]]:
    """How each server is started."""
    inlay = [sys.executable, "-m", "inlay", "serve", "demo", "--cache", "none", "--port", str(PORT)]
    infinity = [str(Path(python_of(INFINITY_PACKAGES, environments)).parent / "infinity_emb"), "v2"]
    infinity += ["--model-id", str(locate("demo")), "--served-model-name", "demo", "--url-prefix", "/v1"]
    infinity += ["--port", str(PORT), "--device", "cpu", "--engine", "torch", "--no-bettertransformer"]
    return {
        "inlay int8": [*inlay, "--dtype", "int8"],
        "inlay bfloat16": [*inlay, "--dtype", "bfloat16"],
        "inlay float32": [*inlay, "--dtype", "float32"],
        "infinity float32": infinity,
    }


@contextmanager
def running(command: list[str]) -> Iterator[str]:
    """A server's URL while it runs."""
    quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, env=os.environ | quiet, stdout=null, stderr=null)
    url = f"http://127.0.0.1:{PORT}"
    try:
        wait_for(url, process)
        yield url
    finally:
        process.terminate()
        process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Until it embeds."""
    for _ in range(READY_SECONDS * 4):
        try:
            httpx.post(f"{url}/v1/embeddings", json={"model": "demo", "input": "ready"}).raise_for_status()
            return
        except httpx.HTTPError as error:
            if process.poll() is not None:
                raise SystemExit(f"{process.args} has ended with {process.returncode}") from error
            time.sleep(0.25)
    raise SystemExit(f"{process.args} does not answer")


def load(url: str, connections: str, seconds: float) -> list[dict[str, Any]]:
    """A record for each number of connections."""
    command = [sys.executable, "-m", "inlay", "bench", "server", url, "--model", "demo", "--words", "12"]
    command += ["--concurrency", connections, "--seconds", str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])["rows"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", default="1,32")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    options = parser.parse_args()
    started = commands(options.environments)
    taken: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in started}
    for _ in range(options.rounds):
        for name, command in started.items():
            with running(command) as url:
                taken[name].append(load(url, options.connections, options.seconds))
    report(taken, [int(number) for number in options.connections.split(",")])


def report(taken: dict[str, list[list[dict[str, Any]]]], connections: list[int]) -> None:
    figures = {
        name: {
            number: {figure: statistics.median(rows[place][figure] for rows in rounds) for figure in FIGURES}
            for place, number in enumerate(connections)
        }
        for name, rounds in taken.items()
    }
    errors = {
        name: sum(sum(row["errors"].values()) for rows in rounds for row in rows) for name, rounds in taken.items()
    }
    theirs = figures["infinity float32"]
    print(f"{'':20}{'connections':>12}{'requests/s':>12}{'P50 ms':>10}{'P99 ms':>10}{'÷ infinity':>12}{'errors':>8}")
    for name, by_number in figures.items():
        for number, found in by_number.items():
            ratio = found["qps"] / theirs[number]["qps"]
            shown = f"{found['qps']:>12.0f}{found['p50_ms']:>10.1f}{found['p99_ms']:>10.1f}{ratio:>12.2f}"
            print(f"{name:20}{number:>12}{shown}{errors[name]:>8}")
    print(json.dumps({"card": machine_card(), "figures": figures, "errors": errors}))


if __name__ == "__main__":
    main()
