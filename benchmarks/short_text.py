"""Where the time of one short text goes: each kernel, what stands between them, and the way through the worker.

Runs one text of `--tokens` ids again and again: through the worker, from its recording, and then call by call with a
clock around each kernel (which costs about a microsecond a call). Prints microseconds and one JSON line.

    .venv/bin/python benchmarks/short_text.py --dtype float32
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict

import numpy as np

from inlay.bench.ask import Asker
from inlay.bench.card import machine_card
from inlay.config_values import make_settings
from inlay.engine.batch import Sequence, pack
from inlay.engine.loading import load_engine
from inlay.engine.stats import EngineStats
from inlay.engine.worker import DeviceWorker
from inlay.models.source import locate
from inlay.models.spec import read_spec
from inlay.ops.native import Kernels
from inlay.telemetry.logs import configure_logs
from inlay.types import Priority, Truncate, Work

RUNS = 400


def median_us(seconds: list[float]) -> float:
    return round(statistics.median(seconds) * 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--tokens", type=int, default=16)
    options = parser.parse_args()
    configure_logs("error", "console")
    settings = make_settings({"device": "cpu", "dtype": options.dtype})
    spec = read_spec(locate(options.model), "short")
    ids = np.random.default_rng(0).integers(5, spec.vocab_rows - 5, options.tokens)

    worker = DeviceWorker(spec, lambda spec, stats: load_engine(spec, settings, stats), 1000)
    worker.wait_loaded()
    ask, whole = Asker(worker).ask, []
    for _ in range(RUNS):
        began = time.perf_counter()
        ask([ids.tolist()])
        whole.append(time.perf_counter() - began)
    worker.close(10)

    runner = load_engine(spec, settings, EngineStats()).runner
    sequence = Sequence(Work(0, "x", Truncate.END, options.tokens), lambda answers: None, 0.0, Priority.NORMAL)
    sequence.ids = ids.astype(np.int64)
    batch = pack([sequence])
    alone = []
    for _ in range(RUNS):
        began = time.perf_counter()
        runner.collect(runner.launch(batch))
        alone.append(time.perf_counter() - began)

    runner._pass = runner._model  # call by call
    plain_pass = []
    for _ in range(RUNS):
        began = time.perf_counter()
        runner.collect(runner.launch(batch))
        plain_pass.append(time.perf_counter() - began)

    calls: dict[str, list[float]] = defaultdict(list)
    plain = Kernels._call

    def timed(self: Kernels, function: str, *arguments: object) -> None:
        began = time.perf_counter()
        plain(self, function, *arguments)
        calls[function].append(time.perf_counter() - began)

    Kernels._call = timed  # type: ignore[method-assign]
    for _ in range(RUNS):
        runner.collect(runner.launch(batch))
    kernels = {name: round(sum(taken) / RUNS * 1e6, 1) for name, taken in calls.items()}
    figures = {
        "through the worker": median_us(whole),
        "the forward pass, recorded": median_us(alone),
        "the forward pass, call by call": median_us(plain_pass),
        **{
            f"  {name} x {len(calls[name]) // RUNS}": kernels[name]
            for name in sorted(kernels, key=lambda name: -kernels[name])
        },
        "  between the kernels": round(median_us(plain_pass) - sum(kernels.values()), 1),
    }
    for name, microseconds in figures.items():
        print(f"{name:32}{microseconds:10.1f} µs")
    print(json.dumps({"card": machine_card(), "dtype": options.dtype, "tokens": options.tokens, **figures}))


if __name__ == "__main__":
    main()
