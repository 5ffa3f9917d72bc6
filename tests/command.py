"""The command line in a process of its own, with none of this machine's settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

Done = subprocess.CompletedProcess[str]


def run_inlay(*arguments: str, text: str | None = None, cwd: Path | None = None, **env: str) -> Done:
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith("INLAY_") or key == "INLAY_MAX_CPU_ISA"
    }
    command = [sys.executable, "-m", "inlay", *arguments]
    return subprocess.run(
        command, input=text, capture_output=True, text=True, timeout=150, check=False, env={**clean, **env}, cwd=cwd
    )
