"""How many threads compute: what the process may really use, and why.

In: the processors that this process may run on, the quota of its control groups, and `INLAY_THREADS`. Out: a number
with its reason, for the log. Knows nothing of torch: whoever shares processors has to do so before that is imported.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from inlay.config import THREADS_VARIABLE
from inlay.errors import ConfigError

MOST_THREADS = 1024
CONTROL_GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Threads:
    """A number of threads, and why so many."""

    count: int
    reason: str


@cache
def choose_threads() -> Threads:
    """The number that is asked for, or one for each processor that the process may keep busy."""
    asked = os.environ.get(THREADS_VARIABLE, "")
    if asked:
        if not asked.isdecimal() or len(asked) > len(str(MOST_THREADS)) or not 1 <= int(asked) <= MOST_THREADS:
            raise ConfigError(f"{THREADS_VARIABLE}={asked}: use a whole number from 1 to {MOST_THREADS}")
        return Threads(int(asked), f"{THREADS_VARIABLE}={asked}")
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    if quota is not None and quota < processors:
        # Rounded down: threads beyond the quota would all be stopped together for the rest of each period.
        return Threads(max(1, math.floor(quota)), f"the control group allows {quota:g} of {processors} processors")
    return Threads(processors, f"the process may run on {processors} processors")


def take_share(number: int, of: int) -> None:
    """From now on this process computes on its part of the processors, beside others with the other parts.

    To be called before torch is imported: its threads, made for all processors, would crowd on those that are left.
    """
    if os.environ.get(THREADS_VARIABLE):
        return  # so many, in each process
    whole = choose_threads().count
    if of > whole:
        raise ConfigError(f"{of} engines on a processor need {of} processors, and there are {whole}")
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(processors) == whole:  # else the system moves threads about as the quota allows
        os.sched_setaffinity(0, processors[number * whole // of : (number + 1) * whole // of])
    os.environ[THREADS_VARIABLE] = str(max(1, (number + 1) * whole // of - number * whole // of))
    choose_threads.cache_clear()


def variables_for(cores: float) -> dict[str, str]:
    """Variables of a process that is started with so many processors: what is set here holds there, too."""
    return {THREADS_VARIABLE: os.environ.get(THREADS_VARIABLE, str(max(1, math.floor(cores))))}


def cpu_quota(groups: Path = CONTROL_GROUPS, own: Path = OWN_GROUPS) -> float | None:
    """Processors' worth of time that the control groups (v1 or v2) of this process allow; None: no limit."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except (OSError, ValueError):
        return None
    quotas = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        roots = _roots_of(controllers)
        for folder in (groups / root for root in roots):
            quotas += [quota for group in _and_parents(folder, path) if (quota := _quota_of(group)) is not None]
    return min(quotas, default=None)


def _roots_of(controllers: str) -> list[str]:
    """Where a hierarchy may be mounted; v2's has no controllers in its line."""
    if not controllers:
        return [".", "unified"]
    return [controllers, "cpu", "cpu,cpuacct"] if "cpu" in controllers.split(",") else []


def _and_parents(root: Path, path: str) -> list[Path]:
    """A group and those above it. In a container the path may be the host's; the root is then the own group."""
    relative = PurePosixPath(path.lstrip("/"))
    return [root / relative, *(root / parent for parent in relative.parents)]


def _quota_of(group: Path) -> float | None:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return float(quota) / float(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
