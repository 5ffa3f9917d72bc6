"""The fault harness in its quick form: nothing wrong, nothing lost, nothing that hangs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).resolve().parents[1] / "benchmarks" / "faults"
FEWEST = 40  # kinds


@pytest.mark.timeout(900)
def test_faults_of_clients_files_processes_and_stores_cost_good_clients_nothing(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    command = [sys.executable, str(HARNESS), "--quick", "--json", str(told)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(told.read_text())["kinds"]
    assert len(rows) >= FEWEST
    assert all(row["right"] for row in rows)
