"""Queries with Qwen3's default instruction: how much faster when its keys and values are kept.

Random weights of a true shape. Queries of about 10 tokens behind the instruction's 19, in batches of 32, with and
without the store of prefixes, alternating. Prints a table and one JSON line.

    .venv/bin/python benchmarks/shared_prefix.py --shape qwen3-embedding-0.6b --dtype int8
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from serving import print_table

from inlay.bench.shapes import SHAPES, make_checkpoint
from inlay.engine.batch import Sequence, pack
from inlay.engine.device import choose
from inlay.engine.runner import Runner
from inlay.models.spec import read_spec
from inlay.types import Truncate, Work

INSTRUCTION = [641, 1235, 25, 16246, 264, 3482, 2711, 3239, 11, 17179, 9760, 46769, 429, 4226, 279, 3239, 198, 2859, 25]
END = 151_643
QUERIES = 32


def sequences(generator: np.random.Generator, count: int) -> list[Sequence]:
    lists = [[*INSTRUCTION, *generator.integers(0, 150_000, generator.integers(7, 12)), END] for _ in range(count)]
    works = [Work(number, ids, Truncate.NONE, 0) for number, ids in enumerate(lists)]
    return [
        Sequence(work, lambda answers: None, 0.0, work.priority, np.array(work.content, dtype=np.int64))
        for work in works
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="qwen3-embedding-0.6b", choices=list(SHAPES))
    parser.add_argument("--dtype", default="int8")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(Path(folder), SHAPES[options.shape])
        spec = read_spec(Path(folder), options.shape)
        runner = Runner(spec, choose("cpu", options.dtype), lambda: sequences(generator, 8))
    store = runner._planner._prefixes
    taken: dict[str, list[float]] = {"each query whole": [], "the instruction kept": []}
    for number in range(2 * options.runs + 4):
        name = list(taken)[number % 2]
        runner._planner._prefixes = store if number % 2 else None
        batch = pack(sequences(generator, QUERIES))
        began = time.perf_counter()
        runner.collect(runner.launch(batch))
        if number >= 4:  # the first make the kernels and the store
            taken[name].append(time.perf_counter() - began)
    rates = {name: QUERIES / statistics.median(seconds) for name, seconds in taken.items()}
    whole = rates["each query whole"]
    print_table({n: {"queries/s": round(rate, 1), "ratio": round(rate / whole, 2)} for n, rate in rates.items()})


if __name__ == "__main__":
    main()
