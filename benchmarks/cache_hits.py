"""Hits from memory over HTTP: the server pinned to one core, the client to another.

One text a request at 384 and 1024 floats (a made-up checkpoint of width 1024), and requests of 256 cached
texts, all base64. Prints a table and one JSON line.

    .venv/bin/python benchmarks/cache_hits.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from serving import body_of, free_port, inlay_serve, load, print_table, running

from inlay.bench.shapes import SHAPES, make_checkpoint

QWEN3 = "qwen3-embedding-0.6b"
SHOWN = ("requests/s", "vectors/s", "mean_ms", "p50_ms", "p99_ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=8)
    options = parser.parse_args()
    port = free_port()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        wide = Path(folder) / "wide"
        wide.mkdir()
        make_checkpoint(wide, {**SHAPES[QWEN3], "num_hidden_layers": 1}, ["cached", "text"])
        with running(["taskset", "-c", "0", *inlay_serve(port, str(wide))], port):
            for model, width in (("demo", 384), ("wide", 1024)):
                for texts in (1, 256):
                    number = options.requests // (1 if texts == 1 else 20)
                    name = f"{width} floats, {texts} a request"
                    rows[name] = measure(port, model, texts, number, options.connections)
    print_table(rows)


def measure(port: int, model: str, texts: int, number: int, connections: int) -> dict[str, Any]:
    """Texts drawn in turn from a few hundred cached ones."""
    groups = [[f"cached text {group} {place}" for place in range(texts)] for group in range(20)]
    bodies = [body_of(group[0] if texts == 1 else group, model) for group in groups]
    load(port, bodies, 1)
    figures = load(port, (bodies * (number // 20 + 1))[:number], connections, ["taskset", "-c", "1"])
    if figures["hits"] != number:
        sys.exit(f"{figures['hits']} of {number} requests were hits")
    return {
        "requests/s": round(figures["qps"]),
        "vectors/s": round(figures["qps"] * texts),
        **{name: figures[name] for name in SHOWN[2:]},
    }


if __name__ == "__main__":
    main()
