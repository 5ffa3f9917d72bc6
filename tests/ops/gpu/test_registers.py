"""Kernels compile ahead of time for the GPUs that they are for, and keep all that they hold in registers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "gpu" / "registers.py"


def test_the_attention_of_a_model_spills_nothing(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, SCRIPT, "16/8×128"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    kernels = [line.split()[0] for line in done.stdout.splitlines()[1:]]
    assert kernels == ["attend", "attend", "attend", "rotate_heads"] * 2
