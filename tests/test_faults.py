"""The fault harness in its quickest form: nothing wrong, nothing lost, nothing that hangs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).resolve().parents[1] / "benchmarks" / "faults.py"


@pytest.mark.timeout(300)
def test_bad_clients_and_damaged_files_cost_good_clients_nothing() -> None:
    done = subprocess.run([sys.executable, str(HARNESS), "--quick"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "damage" in done.stdout
