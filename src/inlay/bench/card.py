"""The card of a measurement: on what, with what. A figure without it says little."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import inlay

_CPU_INFO = Path("/proc/cpuinfo")
_TELLING = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "i8mm",
    "bf16",
)


def machine_card() -> dict[str, Any]:
    """Processor, cores, versions and commit; without torch."""
    info = _CPU_INFO.read_text() if _CPU_INFO.exists() else ""
    fields = dict(line.split(":", 1) for line in info.split("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    family = f" (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else ""
    return {
        "processor": (fields.get("model name") or platform.processor() or platform.machine()) + family,
        "features": " ".join(feature for feature in _TELLING if feature in flags),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "inlay": inlay.__version__,
        "torch": version("torch"),
        "commit": _commit(),
    }


def _commit() -> str:
    """Of the working tree that this code lies in; empty for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
