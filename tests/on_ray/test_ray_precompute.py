"""`inlay precompute --on ray`: the same corpus as one process makes, whatever is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import until

from inlay.corpus.files.part_writer import BUILDING, PROGRESS


def command(rows: Path, output: Path, *more: str) -> list[str]:
    fixed = ("--id", "id", "--dtype", "float32")
    return [sys.executable, "-m", "inlay", "precompute", str(rows), "-o", str(output), *fixed, *more]


def run_on(cluster: str, rows: Path, output: Path) -> subprocess.Popen[bytes]:
    arguments = command(rows, output, "--on", "ray", "--ray-actors", "2")
    return subprocess.Popen(arguments, env={**os.environ, "RAY_ADDRESS": cluster})


def contents(corpus: Path) -> dict[str, bytes]:
    """All that is in a corpus but when it was made."""
    found = {str(path.relative_to(corpus)): path.read_bytes() for path in corpus.rglob("*") if path.is_file()}
    manifest = json.loads(found.pop("manifest.json"))
    assert manifest.pop("created")
    return {**found, "manifest": json.dumps(manifest).encode()}


def rows_of(output: Path) -> int:
    try:
        return int(json.loads((output / BUILDING / PROGRESS).read_bytes())["rows_read"])
    except FileNotFoundError:
        return 0


@pytest.fixture(scope="module")
def local(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("local") / "corpus"
    subprocess.run(command(rows, output), check=True)
    return output


def test_a_run_that_was_killed_and_taken_up_again_makes_what_one_process_makes(
    cluster: str, rows: Path, local: Path, tmp_path: Path
) -> None:
    output = tmp_path / "corpus"
    killed = run_on(cluster, rows, output)
    until(lambda: rows_of(output) or killed.poll() is not None)
    killed.kill()
    killed.wait()
    assert 0 < rows_of(output) < 10_000, "it was to be killed in the middle"
    assert run_on(cluster, rows, output).wait(120) == 0
    assert contents(output) == contents(local)


def test_an_actor_that_is_killed_costs_no_row(cluster: str, rows: Path, local: Path, tmp_path: Path) -> None:
    output = tmp_path / "corpus"
    running = run_on(cluster, rows, output)
    until(lambda: rows_of(output) or running.poll() is not None)
    found = subprocess.run(["pgrep", "-f", "ray::EngineActor"], capture_output=True, text=True).stdout.split()
    os.kill(int(found[0]), signal.SIGKILL)
    assert running.wait(120) == 0
    assert contents(output) == contents(local)
