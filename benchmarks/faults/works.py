"""Long work that is killed and taken up again: corpora, and batches of requests."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
from kind import Run
from tries import until

NUM_ROWS = 4000


def _rows(folder: Path, first: int = 0, number: int = NUM_ROWS) -> Path:
    path = folder / f"rows-{first}.jsonl"
    lines = [
        json.dumps({"id": n, "text": f"row {n} tells of {n * 7919 % 1000} trains"})
        for n in range(first, first + number)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def _command(rows: Path, corpus: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "inlay", "precompute", str(rows), "-o", str(corpus), "--id", "id", *more]


def _killed_until_done(run: Run, command: list[str], seconds: float) -> int:
    """Run it, killing it at any moment as often as is asked, and then to its end; its status."""
    for _ in range(run.number):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(run.chance.uniform(0.3, seconds))
            process.kill()
            process.wait()
    return subprocess.run(command, capture_output=True, check=False).returncode


def _contents(corpus: Path) -> dict[str, bytes]:
    """All but when it was made."""
    found = {str(path.relative_to(corpus)): path.read_bytes() for path in corpus.rglob("*") if path.is_file()}
    manifest = json.loads(found.pop("manifest.json"))
    manifest.pop("created")
    return {**found, "manifest": json.dumps(manifest).encode()}


def kill_precompute(run: Run) -> None:
    """kill -9 at any moment: taken up again it makes the same files."""
    folder = run.folder()
    rows = _rows(folder)
    began = time.monotonic()
    subprocess.run(_command(rows, folder / "whole"), check=True, capture_output=True)
    seconds = time.monotonic() - began
    run.tries.note(_killed_until_done(run, _command(rows, folder / "killed"), seconds) == 0)
    run.tries.note(_contents(folder / "killed") == _contents(folder / "whole"))


def kill_append(run: Run) -> None:
    """The same while rows are added: the corpus of before is there at any moment."""
    folder = run.folder()
    rows, more = _rows(folder), _rows(folder, NUM_ROWS, NUM_ROWS // 2)
    for name in ("whole", "killed"):
        subprocess.run(_command(rows, folder / name), check=True, capture_output=True)
    before = json.loads((folder / "killed" / "manifest.json").read_bytes())
    began = time.monotonic()
    subprocess.run(_command(more, folder / "whole", "--append"), check=True, capture_output=True)
    seconds = time.monotonic() - began
    command = _command(more, folder / "killed", "--append")
    for _ in range(run.number):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(run.chance.uniform(0.3, seconds))
            process.kill()
            process.wait()
        parts = json.loads((folder / "killed" / "manifest.json").read_bytes())["parts"]
        run.tries.note(parts[: len(before["parts"])] == before["parts"])
    done = subprocess.run(command, capture_output=True, check=False)
    run.tries.note(done.returncode == 0 or b"whole" in done.stderr)
    run.tries.note(_contents(folder / "killed") == _contents(folder / "whole"))


def kill_jobs(run: Run) -> None:
    """kill -9 of a server that runs a batch: each line is answered once, when all is done."""
    folder = run.folder()
    num_lines = 1000 if run.is_quick else 5000
    lines = [
        {
            "custom_id": str(n),
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "demo", "input": f"line {n}"},
        }
        for n in range(num_lines)
    ]
    arguments = ("--jobs", str(folder / "jobs"), "--cache", "none")
    server = run.own_server(*arguments)
    expected, port = server.expected, server.address[1]
    url = f"http://127.0.0.1:{port}"
    content = "\n".join(map(json.dumps, lines)).encode()
    file = httpx.post(f"{url}/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", content)}).json()
    body = {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
    batch = httpx.post(f"{url}/v1/batches", json=body).json()["id"]
    for _ in range(run.number):
        time.sleep(run.chance.uniform(0.05, 0.7))
        server.kill()
        server = run.own_server(*arguments, expected=expected, port=port)
    run.tries.note(until(lambda: _batch(url, batch)["status"] == "completed", 120) is not None)
    told = _batch(url, batch)
    answered = httpx.get(f"{url}/v1/files/{told['output_file_id']}/content", timeout=60).text.splitlines()
    counts = Counter(json.loads(line)["custom_id"] for line in answered)
    run.tries["right"] += sum(count == 1 for count in counts.values())
    run.tries["wrong"] += sum(count > 1 for count in counts.values())
    run.tries["lost"] += num_lines - len(counts)


def _batch(url: str, batch: str) -> dict[str, str]:
    told: dict[str, str] = httpx.get(f"{url}/v1/batches/{batch}", timeout=60).json()
    return told


def interrupt_embed(run: Run) -> None:
    """Ctrl-C and SIGTERM on the command line: it ends at once, and its status says by what."""
    folder = run.folder()
    rows = _rows(folder, number=200_000)
    command = [sys.executable, "-m", "inlay", "embed", str(rows), "--output", str(folder / "out.jsonl")]
    for place in range(run.number):
        number = (signal.SIGINT, signal.SIGTERM)[place % 2]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(run.chance.uniform(1.0, 2.5))
            process.send_signal(number)
            try:
                run.tries.note(process.wait(20) in (130, 143, -signal.SIGINT, -signal.SIGTERM))
            except subprocess.TimeoutExpired:
                run.tries["hung"] += 1
                process.kill()
