"""Inlay and its peers on a machine that has other things to do: same token ids, same minutes, taking turns.

Conditions: `idle`; `busy`, a busy loop of the same priority for each core; `jobs`, four for each core at the lowest
priority; `quota`, a control group that allows one core (root alone may make one). Each contestant runs one short text
again and again, as a lone client would, then a large batch. Prints P50 and rate, ratios to its own idle figures and
to ours, and one JSON line.

    .venv/bin/python benchmarks/peers/busy.py --model demo --dtype float32
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from compare import CONTESTANTS, Contestant, tokens_of
from environments import ENVIRONMENTS

from inlay.bench.card import machine_card
from inlay.bench.shapes import SHAPES, make_checkpoint
from inlay.models.source import locate

SPIN = "while True: pass"
PERIOD = 100_000  # µs, of a quota


@dataclass
class Runner:
    """A contestant, alone or in a control group, and what it took: by condition and row."""

    name: str
    contestant: Contestant
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def run_for(self, condition: str, row: str, seconds: float, pause: float) -> None:
        until = time.monotonic() + seconds
        taken = self.seconds.setdefault((condition, row), [])
        while time.monotonic() < until:
            taken.append(self.contestant.run(row))
            time.sleep(pause)


@contextlib.contextmanager
def spinning(count: int, niceness: int) -> Iterator[None]:
    command = ["nice", "-n", str(niceness), sys.executable, "-c", SPIN]
    loops = [subprocess.Popen(command) for _ in range(count)]
    try:
        time.sleep(1)
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextlib.contextmanager
def one_core_group() -> Iterator[Path | None]:
    """A control group (v1 or v2) with the quota of one core; None where none can be made."""
    for root, file, quota in (
        ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", f"{PERIOD}"),
        ("/sys/fs/cgroup", "cpu.max", f"{PERIOD} {PERIOD}"),
    ):
        group = Path(root) / f"inlay-busy-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / file).write_text(quota)
            yield group
            return
        except OSError:
            pass
        finally:
            group.rmdir()
    yield None


def start(name: str, options: argparse.Namespace, checkpoint: Path, group: Path | None = None) -> Runner | None:
    plain, _, threads = name.partition(" x")
    environment = {"INLAY_THREADS": threads} if threads else {}
    contestant = Contestant(plain, checkpoint, options.environments, environment, group)
    if not contestant.is_there:
        print(f"{name}: does not run this model", file=sys.stderr)
        return None
    return Runner(name, contestant)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="demo or a directory")
    parser.add_argument("--shape", choices=list(SHAPES), help="instead: random weights of a true shape")
    parser.add_argument("--dtype", default="float32", help="of ours")
    parser.add_argument("--peers", default="onnxruntime float32,onnxruntime int8,sentence-transformers float32")
    parser.add_argument("--rows", default="1x16,64x16", help="the first is the short text")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each contestant's turn")
    parser.add_argument("--conditions", default="idle,busy,jobs,quota")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    ours = f"inlay {options.dtype}"
    names = [ours, f"{ours} x1", *(peer for peer in options.peers.split(",") if peer in CONTESTANTS)]
    loads = {"idle": (0, 0), "busy": (cores, 0), "jobs": (4 * cores, 19)}
    with tempfile.TemporaryDirectory() as folder, one_core_group() as group:
        checkpoint = locate(options.model)
        if options.shape:
            checkpoint = Path(folder)
            make_checkpoint(checkpoint, SHAPES[options.shape])
        runners = [runner for name in names if (runner := start(name, options, checkpoint))]
        limited = start(ours, options, checkpoint, group) if group and "quota" in options.conditions else None
        for condition in options.conditions.split(","):
            if condition == "quota":
                measure("quota", [*runners[1:2], *([limited] if limited else [])], options)
                continue
            with spinning(*loads[condition]):
                measure(condition, runners, options)
        for runner in [*runners, *([limited] if limited else [])]:
            runner.contestant.close()
    if limited:
        limited.name += " in the quota"
    report([*runners, *([limited] if limited else [])], options)


def measure(condition: str, runners: list[Runner], options: argparse.Namespace) -> None:
    for row in options.rows.split(","):
        for number in range(options.rounds):
            for runner in runners if number % 2 == 0 else reversed(runners):
                runner.contestant.run(row)
                runner.run_for(condition, row, options.seconds, pause=0.0)


def report(runners: list[Runner], options: argparse.Namespace) -> None:
    figures: list[dict[str, object]] = []
    for condition in options.conditions.split(","):
        for row in options.rows.split(","):
            print(f"{condition}, {row}: P50, P95 in ms; runs/s; tokens/s; P50 and rate beside its own idle ones")
            for runner in runners:
                taken = runner.seconds.get((condition, row))
                if not taken:
                    continue
                idle = runner.seconds.get(("idle", row), taken)
                middle, rate = statistics.median(taken), len(taken) / sum(taken)
                late = statistics.quantiles(taken, n=20)[-1] if len(taken) > 1 else taken[0]
                slower, share = middle / statistics.median(idle), rate * sum(idle) / len(idle)
                print(
                    f"  {runner.name:34}{middle * 1e3:9.2f}{late * 1e3:9.2f}{rate:9.1f}{rate * tokens_of(row):9.0f}"
                    f"{slower:8.2f} x{share:8.2f} x"
                )
                figures.append(
                    {"condition": condition, "row": row, "name": runner.name, "p50_ms": middle * 1e3, "rate": rate}
                )
    print(json.dumps({"card": machine_card(), "figures": figures}))


if __name__ == "__main__":
    main()
