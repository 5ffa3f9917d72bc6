"""What each cache level gives: 10 clients, a Zipf mix of 80 % texts seen before and 20 % new ones.

No cache, memory, memory + disk, and all with a precomputed corpus, each with the same requests, one text a
request. The memory holds a fifth of the seen texts, so that the levels below it have work; the corpus holds half,
or all, of the texts that are new to the server: those that were known beforehand. Prints a table and one JSON line;
`ratio` is the mean without a cache over the mean of the line.

    .venv/bin/python benchmarks/cache_levels.py
    .venv/bin/python benchmarks/cache_levels.py --shape qwen3-embedding-0.6b --requests 500
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from serving import body_of, free_port, inlay_serve, load, print_table, running

from inlay.bench.shapes import SHAPES, make_checkpoint
from inlay.cache.memory import KEY_OVERHEAD

SEEN, CLIENTS = 500, 10
SHARE_NEW = 0.2
WORDS = (
    "market river stone weather engine library silver garden winter signal harbour music letter valley copper "
    "mirror station theory village planet"
).split()
SHOWN = ("mean_ms", "p50_ms", "p95_ms", "p99_ms", "qps", "hits", "ratio")


def make_text(generator: random.Random, number: int) -> str:
    return f"{number} " + " ".join(generator.choices(WORDS, k=24))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--shape", choices=["qwen3-embedding-0.6b"], help="random weights of this shape; default: demo")
    options = parser.parse_args()
    generator = random.Random(0)
    seen = [make_text(generator, number) for number in range(SEEN)]
    new = [make_text(generator, SEEN + number) for number in range(round(options.requests * SHARE_NEW))]
    weights = [1 / rank for rank in range(1, SEEN + 1)]
    mixed = new + generator.choices(seen, weights, k=options.requests - len(new))
    generator.shuffle(mixed)
    folder = Path(tempfile.mkdtemp(dir="."))
    model, width = "demo", 384
    try:
        if options.shape is not None:
            (folder / options.shape).mkdir()
            make_checkpoint(folder / options.shape, SHAPES[options.shape], WORDS)
            model, width = str(folder.resolve() / options.shape), 1024
        rows = measure(folder.resolve(), model, width, seen, new, mixed)
    finally:
        shutil.rmtree(folder)
    for row in rows.values():
        row["ratio"] = round(rows["no cache"]["mean_ms"] / row["mean_ms"], 1)
    print_table({name: {column: row[column] for column in SHOWN} for name, row in rows.items()})


def measure(
    folder: Path, model: str, width: int, seen: list[str], new: list[str], mixed: list[str]
) -> dict[str, dict[str, Any]]:
    memory = ["--cache", f"memory://{SEEN // 5 * (width * 4 + KEY_OVERHEAD)}"]
    levels = {"no cache": ["--cache", "none"], "memory": memory, "memory, disk": [*memory, *disk_of(folder, "two")]}
    for name, known in (("half", new[::2]), ("all", new)):
        corpus = make_corpus(folder / name, model, known)
        levels[f"memory, disk, {name} precomputed"] = [
            *memory,
            "--cache",
            f"corpus://{corpus}",
            *disk_of(folder, f"d{name}"),
        ]
    return {name: measure_level(arguments, model, seen, mixed) for name, arguments in levels.items()}


def disk_of(folder: Path, name: str) -> list[str]:
    return ["--cache", f"disk://{folder}/{name}"]


def make_corpus(directory: Path, model: str, texts: list[str]) -> Path:
    rows = directory.with_suffix(".jsonl")
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    command = [sys.executable, "-m", "inlay", "precompute", str(rows), "-o", str(directory), "--model", model]
    subprocess.run(command, check=True, capture_output=True)
    return directory


def measure_level(arguments: list[str], model: str, seen: list[str], mixed: list[str]) -> dict[str, Any]:
    port = free_port()
    with running(inlay_serve(port, *arguments, model=model), port):
        if "none" not in arguments:
            load(port, [body_of(text) for text in seen], CLIENTS)
        return load(port, [body_of(text) for text in mixed], CLIENTS)


if __name__ == "__main__":
    main()
