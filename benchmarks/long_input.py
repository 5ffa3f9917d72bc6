"""One long input on a model of a true shape: memory above the weights, and how long short ones wait meanwhile.

Random weights. First a 16-token input alone, then one after the other while an input of --tokens is being embedded.
Prints a table and one JSON line; `pieces` are the times for which the device was not free for others.

    .venv/bin/python benchmarks/long_input.py --dtype int8 --tokens 16384
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path

import numpy as np
from serving import print_table
from torch import Tensor

from inlay.bench.ask import Asker
from inlay.bench.process import peak_bytes, resident_bytes
from inlay.bench.shapes import SHAPES, make_checkpoint
from inlay.config_values import make_settings
from inlay.engine.loading import load_engine
from inlay.engine.pieces import PieceDriver
from inlay.engine.worker import DeviceWorker
from inlay.models.spec import read_spec

SHORT = 16


def time_short(asker: Asker, generator: np.random.Generator) -> float:
    began = time.perf_counter()
    asker.ask([generator.integers(0, 150_000, SHORT).tolist()])
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="qwen3-embedding-0.6b", choices=list(SHAPES))
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--tokens", type=int, default=16_384)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    folder = tempfile.TemporaryDirectory()
    make_checkpoint(Path(folder.name), SHAPES[options.shape])
    settings = make_settings({"dtype": options.dtype, "device": "cpu"})
    spec = read_spec(Path(folder.name), options.shape)
    worker = DeviceWorker(spec, lambda spec, stats: load_engine(spec, settings, stats), 1000)
    worker.wait_loaded()
    pieces: list[float] = []
    whole = PieceDriver.run

    def timed(self: PieceDriver, *arguments: Tensor) -> Generator[None, None, Tensor]:
        run = whole(self, *arguments)
        while True:
            began = time.perf_counter()
            try:
                next(run)
            except StopIteration as finished:
                return finished.value
            pieces.append(time.perf_counter() - began)
            yield

    PieceDriver.run = timed
    asker = Asker(worker)
    alone = [time_short(asker, generator) for _ in range(30)]
    asker.ask([generator.integers(0, 150_000, 4096).tolist()])  # what a piece costs is learned here
    pieces.clear()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before, began = resident_bytes(), time.perf_counter()
    long = threading.Thread(target=asker.ask, args=([generator.integers(0, 150_000, options.tokens).tolist()],))
    long.start()
    meanwhile = []
    while long.is_alive():
        meanwhile.append(time_short(asker, generator))
        time.sleep(0.02)
    seconds = time.perf_counter() - began

    def milliseconds(taken: list[float], share: float) -> float:
        return round(sorted(taken)[min(int(len(taken) * share), len(taken) - 1)] * 1000, 1)

    shorts = {"short alone": alone, "short meanwhile": meanwhile}
    rows = {
        name: {"number": len(taken), "p50_ms": milliseconds(taken, 0.5), "p99_ms": milliseconds(taken, 0.99)}
        for name, taken in {**shorts, "pieces": pieces}.items()
    }
    print(f"{options.tokens} tokens took {seconds:.1f} s, {options.tokens / seconds:.0f} tokens/s with the short ones")
    print(f"median piece {statistics.median(pieces) * 1000:.0f} ms, worst {max(pieces) * 1000:.0f} ms")
    print(f"peak above what was loaded: {(peak_bytes() - before) / 2**30:.2f} GiB")
    print_table(rows)
    worker.close()
    folder.cleanup()


if __name__ == "__main__":
    main()
