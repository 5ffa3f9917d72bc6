"""What this process costs: memory now, at its peak, and how long it has lived. Linux's /proc where there is one."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

_IMPORTED = time.monotonic()
_STATUS, _STAT, _UPTIME = Path("/proc/self/status"), Path("/proc/self/stat"), Path("/proc/uptime")
_STARTED_FIELD = 19  # of /proc/PID/stat, after the name: start time in ticks since boot


def resident_bytes() -> int:
    """Memory in use now."""
    return _status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """Most memory that was in use."""
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def age_seconds() -> float:
    """Since the process began; elsewhere than on Linux, since this module was imported."""
    if not _STAT.exists():
        return time.monotonic() - _IMPORTED
    fields = _STAT.read_text().rsplit(")", 1)[1].split()
    return float(_UPTIME.read_text().split()[0]) - int(fields[_STARTED_FIELD]) / os.sysconf("SC_CLK_TCK")


def _status(key: str) -> int:
    if not _STATUS.exists():
        return 0
    line = next((line for line in _STATUS.read_text().splitlines() if line.startswith(key + ":")), "0 0 kB")
    return int(line.split()[1]) * 1024
