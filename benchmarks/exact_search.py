"""Exact search over a mapped corpus of a million rows, beside the ceilings of the same matrix in the same run.

For one query the ceiling is numpy's matrix-vector product, for 64 its matrix product. Medians of alternating
runs. The corpus (1.5 GB) is made in the current folder and removed.

    .venv/bin/python benchmarks/exact_search.py --rows 1000000 --width 384
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from serving import print_table

from inlay.corpus.files.part import Part
from inlay.corpus.search.exact import search

TOP_K, BATCH, RUNS = 10, 64, 9
CHUNK = 50_000


class BarePart(Part):
    """Vectors and scales in files, without records."""

    def __init__(self, folder: Path, rows: int, width: int) -> None:
        generator = np.random.default_rng(0)
        shape = (rows, width)
        made = np.lib.format.open_memmap(folder / "vectors.npy", mode="w+", dtype=np.float32, shape=shape)
        for start in range(0, rows, CHUNK):
            part = made[start : start + CHUNK]
            part[:] = generator.standard_normal(part.shape, dtype=np.float32)
        made.flush()
        self.first_row = 0
        self.vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        self.scales = (1 / np.linalg.norm(self.vectors, axis=1)).astype(np.float32)


def median_ms(works: list[Callable[[], object]]) -> list[float]:
    """Of each, taken in turn."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(RUNS):
        for work, spent in zip(works, times, strict=True):
            began = time.perf_counter()
            work()
            spent.append(time.perf_counter() - began)
    return [statistics.median(spent) * 1000 for spent in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=384)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir="."))
    try:
        part = BarePart(folder, options.rows, options.width)
        queries = np.random.default_rng(1).standard_normal((BATCH, options.width)).astype(np.float32)
        one, product = median_ms([lambda: search([part], queries[:1], TOP_K), lambda: part.vectors @ queries[0]])
        many, products = median_ms([lambda: search([part], queries, TOP_K), lambda: queries @ part.vectors.T])
        num_bytes, operations = part.vectors.nbytes, 2 * BATCH * options.rows * options.width
    finally:
        shutil.rmtree(folder)
    print_table(
        {
            "1 query": {
                "search_ms": round(one, 1),
                "numpy_ms": round(product, 1),
                "of_ceiling": round(product / one, 3),
                "rate": f"{num_bytes / one / 1e6:.1f} GB/s",
            },
            f"{BATCH} queries": {
                "search_ms": round(many, 1),
                "numpy_ms": round(products, 1),
                "of_ceiling": round(products / many, 3),
                "rate": f"{operations / many / 1e6:.0f} GFLOP/s",
            },
        }
    )


if __name__ == "__main__":
    main()
