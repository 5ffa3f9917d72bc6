"""`inlay precompute --on`, without Ray: mistakes are told before anything is loaded."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--on", "ray", "--server", "http://127.0.0.1:1"], "--on and --server"),
        (["--on", "spark"], "write ray"),
        (["--on", "ray"], "pip install 'inlay[ray]'"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, options: list[str], told: str) -> None:
    if importlib.util.find_spec("ray") is not None:
        pytest.skip("Ray is installed: it would start")
    (tmp_path / "rows.txt").write_text("a\n")
    command = [sys.executable, "-m", "inlay", "precompute", "rows.txt", "-o", "corpus", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
