"""Everything that only a GPU can show, in stages: right first, then fast, each beside what was predicted.

Each stage is a process with its own time limit and prints one JSON line a case, so that what was measured before a
limit is kept; the table comes last. It needs nothing from the network. docs/gpu.md says how to read it.

    python benchmarks/gpu_check.py card tests kernels graphs      # first call
    python benchmarks/gpu_check.py products attention model engine
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {
    "card": 60,
    "tests": 240,
    "kernels": 120,
    "graphs": 120,
    "invariance": 120,
    "products": 90,
    "attention": 90,
    "model": 300,
    "engine": 400,
    "server": 200,
    "weights": 120,
}  # seconds


def run_stage(stage: str, lines: list[dict[str, Any]], arguments: list[str]) -> None:
    """One stage; its lines are added as they come."""
    began = time.monotonic()
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu" / f"{stage}.py"), *arguments]
    process = subprocess.Popen(
        ["timeout", str(LIMITS[stage]), *command], stdout=subprocess.PIPE, text=True, env=environment
    )
    for line in process.stdout or ():
        print(line, end="", flush=True)
        if line.startswith("{"):
            lines.append({"stage": stage, **json.loads(line)})
    status = process.wait()
    seconds = round(time.monotonic() - began, 1)
    lines.append({"stage": stage, "case": "stage", "measured": seconds, "unit": "s", "status": status})
    print(json.dumps(lines[-1]), flush=True)


def print_lines(lines: list[dict[str, Any]]) -> None:
    print(f"\n{'stage':10}{'case':58}{'measured':>14}{'predicted':>12}{'bar':>10}  unit")
    for line in lines:
        told = [line.get("measured"), line.get("predicted"), line.get("bar")]
        measured, predicted, bar = ("" if value is None else str(value) for value in told)
        more = "" if line.get("status") in (None, 0) else f"  exit status {line['status']}"
        print(
            f"{line['stage']:10}{line['case']:58}{measured:>14}{predicted:>12}{bar:>10}  {line.get('unit', '')}{more}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", help=f"{', '.join(LIMITS)}; without: all, and weights only with a --model")
    parser.add_argument("--out", type=Path, help="a file for the JSON lines")
    parser.add_argument("--with", dest="arguments", action="append", default=[], help="an argument for every stage")
    options = parser.parse_args()
    if unknown := set(options.stages) - LIMITS.keys():
        parser.error(f"there is no stage {', '.join(sorted(unknown))}: use {', '.join(LIMITS)}")
    if not torch.cuda.is_available():
        parser.error(
            "torch finds no GPU here: install a build of torch with CUDA, and see nvidia-smi; without a GPU, "
            "benchmarks/gpu/registers.py compiles the kernels and make test interprets them"
        )
    needless = {"weights"} if not any("--model" in one for one in options.arguments) else set()
    lines: list[dict[str, Any]] = []
    for stage in options.stages or [stage for stage in LIMITS if stage not in needless]:
        run_stage(stage, lines, options.arguments)
        if options.out:
            options.out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print_lines(lines)
    sys.exit(any(line.get("status") for line in lines))


if __name__ == "__main__":
    main()
