"""Jobs beside `inlay embed`: the same lines, a server that is killed in the middle, and a query beside the job.

    python benchmarks/jobs.py [--lines 50000] [--rounds 1] [--json FILE]

Prints for each round the seconds of `inlay embed` (its start included), of a batch on a running server, and of a batch
whose server is killed with SIGKILL in the middle and started again (its start, too, and the time between counted in,
and without them); that each line was answered once; the server's memory; and how long a query takes beside a batch,
next to how long the engine's batches of lines last.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from servers import RunningServer

WORDS = [
    f"{first}{last}" for first in ("in", "out", "over", "under", "re", "pre") for last in ("lay", "take", "set", "run")
]
ENDPOINT = "/v1/embeddings"


def texts(number: int) -> list[str]:
    generator = random.Random(7)
    return [f"{' '.join(generator.choices(WORDS, k=generator.randint(4, 24)))} {i}" for i in range(number)]


def time_embed(folder: Path, rows: list[str], output: str) -> float:
    source = folder / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    began = time.perf_counter()
    command = [sys.executable, "-m", "inlay", "embed", str(source), "--output", str(folder / output)]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


class Job:
    """One batch on a server of its own."""

    def __init__(self, folder: Path, rows: list[str]) -> None:
        self.arguments = ("demo", "--jobs", str(folder / "jobs"), "--cache", "none")
        self.lines = "".join(
            json.dumps({"custom_id": f"id{i}", "method": "POST", "url": ENDPOINT, "body": {"input": text}}) + "\n"
            for i, text in enumerate(rows)
        ).encode()
        self.batch: dict[str, Any] = {}

    def create(self, server: RunningServer) -> None:
        form = {"data": {"purpose": "batch"}, "files": {"file": ("lines.jsonl", self.lines)}}
        file = httpx.post(f"{server.url}/v1/files", timeout=120, **form).raise_for_status().json()
        body = {"input_file_id": file["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
        self.batch = httpx.post(f"{server.url}/v1/batches", json=body).raise_for_status().json()

    def wait(self, server: RunningServer, completed: int | None = None) -> None:
        while True:
            self.batch = server.get(f"/v1/batches/{self.batch['id']}").json()
            counts = self.batch["request_counts"]
            if self.batch["status"] == "completed" or (completed is not None and counts["completed"] >= completed):
                return
            if self.batch["status"] not in ("validating", "in_progress", "finalizing"):
                raise SystemExit(f"the batch ended as {self.batch}")
            time.sleep(0.5)  # who asks more often takes the time from the lines

    def check(self, server: RunningServer, number: int) -> None:
        """Each line was answered once."""
        ids = []
        with httpx.stream("GET", f"{server.url}/v1/files/{self.batch['output_file_id']}/content", timeout=120) as reply:
            ids = [json.loads(line)["custom_id"] for line in reply.iter_lines()]
        if sorted(ids) != sorted(f"id{i}" for i in range(number)):
            raise SystemExit("lines were lost, or answered twice")


def peak_mib(server: RunningServer) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def time_job(folder: Path, rows: list[str]) -> dict[str, float]:
    job = Job(folder, rows)
    with RunningServer(*job.arguments) as server:
        before = peak_mib(server)
        began = time.perf_counter()
        job.create(server)
        job.wait(server)
        seconds = time.perf_counter() - began
        job.check(server, len(rows))
        return {"seconds": seconds, "mib_before": before, "mib_peak": peak_mib(server)}


def time_killed_job(folder: Path, rows: list[str]) -> dict[str, float]:
    job = Job(folder, rows)
    with RunningServer(*job.arguments) as server:
        began = time.perf_counter()
        job.create(server)
        job.wait(server, len(rows) // 2)
        server.process.kill()
        server.process.wait()
        running = time.perf_counter() - began
    with RunningServer(*job.arguments) as server:
        again = time.perf_counter()
        job.wait(server)
        ended = time.perf_counter()
        job.check(server, len(rows))
    return {"seconds": ended - began, "seconds_without_the_start": running + ended - again}


def time_queries(folder: Path, rows: list[str]) -> dict[str, float]:
    """A query at a time, alone and beside a batch."""
    job = Job(folder, rows)
    with RunningServer(*job.arguments) as server, httpx.Client(base_url=server.url, timeout=60) as client:

        def ask(number: int, place: int) -> list[float]:
            seconds = []
            for i in range(number):
                began = time.perf_counter()
                body = {"input": f"query {place + i}", "encoding_format": "base64"}
                client.post(ENDPOINT, json=body).raise_for_status()
                seconds.append(time.perf_counter() - began)
                time.sleep(0.01)
            return sorted(seconds)

        alone = ask(200, 0)
        job.create(server)
        job.wait(server, 1)
        before = _batches(server)
        job.wait(server, len(rows) // 4)  # batches of lines alone: a query's own are short and would hide them
        after = _batches(server)
        beside: list[float] = []
        while server.get(f"/v1/batches/{job.batch['id']}").json()["status"] != "completed" and len(beside) < 2000:
            beside += ask(50, 1000 + len(beside))
    beside.sort()
    batch_seconds = (after[1] - before[1]) / (after[0] - before[0])
    return {
        "alone_p50_ms": statistics.median(alone) * 1000,
        "beside_p50_ms": statistics.median(beside) * 1000,
        "beside_p99_ms": beside[int(len(beside) * 0.99)] * 1000,
        "batch_ms": batch_seconds * 1000,
        "p99_in_batches": beside[int(len(beside) * 0.99)] / batch_seconds,
        "queries": len(beside),
    }


def _batches(server: RunningServer) -> tuple[float, float]:
    """How many batches the engine has run, and in how many seconds."""
    text = server.get("/metrics").text
    found = [
        re.search(rf'inlay_engine_{name}_total{{model="demo"}} ([\d.e+]+)', text)
        for name in ("batches", "busy_seconds")
    ]
    if not all(found):
        raise SystemExit(f"the metrics lack batches: {text}")
    return float(found[0][1]), float(found[1][1])  # type: ignore[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = texts(asked.lines)
    rounds = []
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory() as name:
            folders = [Path(name) / str(i) for i in range(3)]
            for folder in folders:
                folder.mkdir()
            found: dict[str, Any] = {
                "embed_jsonl": time_embed(folders[0], rows, "out.jsonl"),
                "embed_npy": time_embed(folders[0], rows, "out.npy"),
                "job": time_job(folders[0], rows),
                "killed_job": time_killed_job(folders[1], rows),
                "queries": time_queries(folders[2], rows),
            }
        print(json.dumps(found, indent=1), flush=True)
        rounds.append(found)
    if asked.json:
        asked.json.write_text(json.dumps({"lines": asked.lines, "rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
