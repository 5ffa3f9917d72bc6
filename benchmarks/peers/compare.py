"""Inlay side by side with what people would use instead: same token ids, same machine, taking turns.

Each contestant runs in a process and a virtual environment of its own, which this script makes (gigabytes, some
minutes, once). Every round gives each of them every row in turn; the medians count. Prints tokens a second and ours ÷
theirs for each dtype of ours, and one JSON line.

    .venv/bin/python benchmarks/peers/compare.py --shape qwen3-embedding-0.6b --rows 1x16,8x128,4x512,1x2048
    .venv/bin/python benchmarks/peers/compare.py --model demo --rows 1x15,64x15,8x128
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from environments import ENVIRONMENTS, python_of

from inlay.bench.card import machine_card
from inlay.bench.shapes import SHAPES, make_checkpoint
from inlay.models.source import locate

HERE = Path(__file__).parent
PAUSE = 0.5  # seconds: the one before may still spin its threads, waiting for more work
# Name → its environment's packages, script, dtype.
CONTESTANTS = {
    "inlay float32": ("", "run_inlay.py", "float32"),
    "inlay bfloat16": ("", "run_inlay.py", "bfloat16"),
    "inlay int8": ("", "run_inlay.py", "int8"),
    "sentence-transformers float32": ("sentence-transformers", "run_sentence_transformers.py", "float32"),
    "sentence-transformers bfloat16": ("sentence-transformers", "run_sentence_transformers.py", "bfloat16"),
    "openvino bfloat16": ("optimum-intel[openvino]", "run_openvino.py", "bfloat16"),
    "openvino int8": ("optimum-intel[openvino]", "run_openvino.py", "int8"),
    "onnxruntime float32": ("onnxruntime onnx onnxscript transformers", "run_onnxruntime.py", "float32"),
    "onnxruntime int8": ("onnxruntime onnx onnxscript transformers", "run_onnxruntime.py", "int8"),
}


class Contestant:
    """A process that runs rows when asked to."""

    def __init__(
        self,
        name: str,
        checkpoint: Path,
        environments: Path,
        variables: Mapping[str, str] | None = None,
        control_group: Path | None = None,
    ) -> None:
        packages, script, dtype = CONTESTANTS[name]
        self.name = name
        command = [python_of(packages, environments), str(HERE / script), str(checkpoint), dtype]
        if control_group is not None:
            enter = f'echo $$ > "{control_group}/cgroup.procs" && exec "$@"'
            command = ["sh", "-c", enter, "sh", *command]
        pipe, environment = subprocess.PIPE, {**os.environ, **(variables or {})}
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        while (line := self._read()) not in ("ready", ""):
            pass  # what libraries print while they load
        self.is_there = line == "ready"

    def _read(self) -> str:
        return self._process.stdout.readline().strip() if self._process.stdout else ""

    def run(self, row: str) -> float:
        """Seconds."""
        if self._process.stdin is None:
            raise SystemExit(f"{self.name} takes no rows")
        self._process.stdin.write(row + "\n")
        self._process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def tokens_of(row: str) -> int:
    batch, length = (int(number) for number in row.split("x"))
    return batch * length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="demo or a directory")
    parser.add_argument("--shape", choices=list(SHAPES), help="instead: random weights of a true shape")
    parser.add_argument("--rows", default="1x16,8x128")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3, help="in a turn, after one that warms the caches")
    parser.add_argument("--only", default=",".join(CONTESTANTS), help="contestants, by name")
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS)
    options = parser.parse_args()
    rows = options.rows.split(",")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = locate(options.model)
        if options.shape:
            checkpoint = Path(folder)
            make_checkpoint(checkpoint, SHAPES[options.shape])
        made = [Contestant(name, checkpoint, options.environments) for name in options.only.split(",")]
        for contestant in made:
            print(
                f"{contestant.name}: {'ready' if contestant.is_there else 'does not run this model'}", file=sys.stderr
            )
        present = [contestant for contestant in made if contestant.is_there]
        taken: dict[str, dict[str, list[float]]] = {one.name: {row: [] for row in rows} for one in present}
        for number in range(options.rounds + 1):
            for row in rows:
                for contestant in present:
                    time.sleep(PAUSE)
                    seconds = [contestant.run(row) for _ in range(1 + options.runs)][1:]
                    if number:  # the first round warms up
                        taken[contestant.name][row] += seconds
        for contestant in made:
            contestant.close()
    report(rows, taken, options.shape or options.model)


def report(rows: list[str], taken: dict[str, dict[str, list[float]]], model: str) -> None:
    rates = {
        name: {row: tokens_of(row) / statistics.median(seconds) for row, seconds in by_row.items()}
        for name, by_row in taken.items()
    }
    print(f"{model}, tokens/s; in brackets latency in ms")
    print(" " * 34 + "".join(f"{row:>18}" for row in rows))
    for name, by_row in rates.items():
        shown = (f"{rate:.0f} ({tokens_of(row) / rate * 1000:.1f})" for row, rate in by_row.items())
        print(f"{name:34}" + "".join(f"{text:>18}" for text in shown))
    ratios = {
        f"{ours} / {theirs}": {row: round(rates[ours][row] / rates[theirs][row], 2) for row in rows}
        for ours in rates
        for theirs in rates
        if ours.startswith("inlay") and not theirs.startswith("inlay")
    }
    for name, by_row in ratios.items():
        print(f"{name:56}" + "".join(f"{ratio:>10}" for ratio in by_row.values()))
    print(json.dumps({"card": machine_card(), "model": model, "tokens_per_s": rates, "ratios": ratios}))


if __name__ == "__main__":
    main()
