"""Clients, files, processes and machines that do what they should not, against real servers: is every good request
answered, and rightly?

    .venv/bin/python benchmarks/faults [--quick] [--kinds idle,damage] [--seed 0] [--json FILE] [--share 1.0]

Prints a row for each kind. A try is one request of a good client while the fault is there, one of a bad client whose
reply must be a refusal, or something that is to hold afterwards. See `tries` for what a try ends in; `recovery` is the
longest time until a good client that tries again had its answer. The status is 1 unless wrong, lost and hung are 0. All
traffic is on the loopback. A whole run makes a thousand kills, sends a million requests by chance, and asks too much of
a server for an hour; `--share` makes so much less of it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import clients
import files
import kills
import overload
import stores
import works
from kind import Kind, Run, Shared

COLUMNS = ("right", "refused", "wrong", "lost", "hung")


class Planned(NamedTuple):
    """A kind, with the tries (or faults) of a quick run (0: it is not in one) and of a whole one."""

    kind: Kind
    few: int
    many: int
    may_refuse: bool = True  # else a refusal of a good client counts as lost


KINDS = [
    Planned(clients.slow, 20, 200),
    Planned(clients.slow_heads, 20, 200),
    Planned(clients.vanishing, 40, 400, may_refuse=False),
    Planned(clients.resetting, 40, 400, may_refuse=False),
    Planned(clients.cancelling, 20, 200),
    Planned(clients.never_reading, 20, 100, may_refuse=False),
    Planned(clients.slow_readers, 10, 100, may_refuse=False),
    Planned(clients.expecting, 10, 100),
    Planned(clients.pipelining, 40, 400, may_refuse=False),
    Planned(clients.line_readers, 20, 200),
    Planned(clients.deadlines, 40, 400),
    Planned(clients.many_at_once, 40, 400),
    Planned(clients.garbage, 60, 600),
    Planned(clients.framing, 56, 560),
    Planned(clients.large_heads, 12, 120),
    Planned(clients.encoded, 10, 50),
    Planned(overload.fuzz, 2_000, 1_000_000),
    Planned(clients.quotas, 20, 200),
    Planned(clients.idle, 20, 100, may_refuse=False),
    Planned(clients.half_open, 20, 100, may_refuse=False),
    Planned(clients.memory, 10, 100),
    Planned(clients.memory_limit, 15, 100),
    Planned(files.damage, 60, 600, may_refuse=False),
    Planned(files.cache_damaged_at_rest, 40, 400, may_refuse=False),
    Planned(files.disk_full, 20, 200, may_refuse=False),
    Planned(files.disk_read_only, 20, 200, may_refuse=False),
    Planned(files.disk_errors, 20, 200, may_refuse=False),
    Planned(files.disk_slow, 20, 100, may_refuse=False),
    Planned(files.disk_hangs, 20, 100, may_refuse=False),
    Planned(files.disk_deleted, 40, 400, may_refuse=False),
    Planned(files.corpus_damage, 40, 400, may_refuse=False),
    Planned(files.model_removed, 20, 200, may_refuse=False),
    Planned(files.log_is_gone, 40, 400, may_refuse=False),
    Planned(kills.kill_server, 1, 100),
    Planned(kills.terminate, 1, 50, may_refuse=False),
    Planned(kills.kill_engine, 2, 300),
    Planned(kills.kill_replica, 2, 150, may_refuse=False),
    Planned(kills.kill_front_end, 1, 100),
    Planned(kills.kill_replacement, 1, 50),
    Planned(kills.replace, 1, 20, may_refuse=False),
    Planned(kills.stop_engine, 1, 20),
    Planned(kills.stop_front_end, 1, 20),
    Planned(kills.stop_server, 1, 20),
    Planned(stores.kill_redis, 2, 150, may_refuse=False),
    Planned(stores.stop_redis, 2, 50, may_refuse=False),
    Planned(stores.full_redis, 20, 200, may_refuse=False),
    Planned(stores.damaged_redis, 40, 400, may_refuse=False),
    Planned(stores.no_redis, 20, 200, may_refuse=False),
    Planned(works.kill_precompute, 2, 50),
    Planned(works.kill_append, 0, 50),
    Planned(works.kill_jobs, 2, 50),
    Planned(works.interrupt_embed, 2, 20),
    Planned(overload.clock_jumps, 20, 200, may_refuse=False),
    Planned(overload.flooded_first, 20, 100, may_refuse=False),
    Planned(overload.rolling_restart, 0, 20, may_refuse=False),
    Planned(overload.overload, 0, 1),
]


def why_not(planned: Planned) -> str | None:
    """Why a kind cannot run on this machine."""
    if planned.kind.__module__ == "stores":
        return stores.is_missing()
    if planned.kind is overload.rolling_restart and not shutil.which("haproxy"):
        return "there is no haproxy"
    if planned.kind is kills.kill_replica and len(os.sched_getaffinity(0)) < 2:
        return "two engines need two cores"
    return None


def run_one(
    planned: Planned, number: int, is_quick: bool, seed: int, shared: Shared
) -> tuple[dict[str, Any], list[str]]:
    """The row of a kind, and what else it has to say."""
    name = planned.kind.__name__
    with ExitStack() as held:
        run = Run(name, number, is_quick, random.Random(f"{seed} {name}"), shared, held)
        began = time.monotonic()
        planned.kind(run)
        seconds = time.monotonic() - began
    tries = run.tries
    if not planned.may_refuse:
        tries["lost"] += tries.pop("refused", 0)
    counts = {column: tries[column] for column in COLUMNS}
    row = {"kind": name, "faults": number, "tries": sum(counts.values()), **counts}
    return {**row, "recovery": round(tries.recovery, 1), "seconds": round(seconds)}, run.notes


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    names = [planned.kind.__name__ for planned in KINDS]
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--kinds", default=",".join(names))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of a whole run's tries")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if unknown := set(given.kinds.split(",")) - set(names):
        parser.error(f"there is no kind {', '.join(unknown)}; these are: {', '.join(names)}")
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    print(f"{'kind':22}" + "".join(f"{c:>9}" for c in ("faults", "tries", *COLUMNS, "recovery", "seconds")), flush=True)
    with ExitStack() as held:
        shared = Shared(held)
        for planned in (one for one in KINDS if one.kind.__name__ in given.kinds.split(",")):
            if (reason := why_not(planned)) is not None:
                notes.append(f"{planned.kind.__name__}: left out, as {reason}")
                continue
            number = planned.few if given.quick else max(round(planned.many * given.share), 1)
            if not number:
                continue
            row, told = run_one(planned, number, given.quick, given.seed, shared)
            rows.append(row)
            notes += told
            print(f"{row['kind']:22}" + "".join(f"{row[c]:>9}" for c in [*row][1:]), flush=True)
    print("\n".join(notes))
    if given.json:
        sys.path.append(str(Path(__file__).resolve().parents[1]))
        from processes import processor

        told = {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "kinds": rows, "notes": notes}
        given.json.write_text(json.dumps(told, indent=1) + "\n")
    return int(any(row[column] for row in rows for column in ("wrong", "lost", "hung")))


if __name__ == "__main__":
    sys.exit(main())
