"""The disk tier alone: writes and reads in batches of 256, bytes on disk, opening, making the index anew.

.venv/bin/python benchmarks/disk_tier.py --entries 40000 --width 1024
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from inlay.cache.disk.directory import open_disk
from inlay.types import DENSE, Entry

BATCH = 256
BOUND = 1 << 34


def anonymous_bytes() -> int:
    """Memory of this process besides the page cache."""
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    return 0 if found is None else int(found[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=40_000)
    parser.add_argument("--width", type=int, default=1024)
    options = parser.parse_args()
    number = options.entries // BATCH * BATCH
    folder = Path(tempfile.mkdtemp(dir="."))
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((BATCH, options.width)).astype(np.float32)
    entries = [Entry(DENSE, vector.tobytes(), 9, False) for vector in vectors]
    keys = [hashlib.sha256(b"%d" % i).digest() for i in range(number)]
    before = anonymous_bytes()
    try:
        tier = open_disk(folder.resolve(), BOUND)
        began = time.perf_counter()
        for start in range(0, number, BATCH):
            part = keys[start : start + BATCH]
            tier.write_many(dict(zip(part, entries, strict=True)))
        written = number / (time.perf_counter() - began)
        order = generator.permutation(number)
        began = time.perf_counter()
        for start in range(0, number, BATCH):
            if len(tier.read_many([keys[i] for i in order[start : start + BATCH]])) != BATCH:
                raise SystemExit("entries are missing")
        read = number / (time.perf_counter() - began)
        blocks = sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
        memory = anonymous_bytes()
        tier.release()
        began = time.perf_counter()
        tier = open_disk(folder.resolve(), BOUND)
        opened = time.perf_counter() - began
        began = time.perf_counter()
        tier.rebuild()
        rebuilt = time.perf_counter() - began
        tier.release()
    finally:
        shutil.rmtree(folder)
    figures = {
        "entries": number,
        "width": options.width,
        "written_per_second": round(written),
        "read_per_second": round(read),
        "bytes_per_vector_byte": round(blocks / (number * options.width * 4), 3),
        "memory_mb": round((memory - before) / 1e6, 1),
        "open_seconds": round(opened, 3),
        "rebuild_seconds": round(rebuilt, 2),
    }
    for name, value in figures.items():
        print(f"{name:24}{value:>12}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
