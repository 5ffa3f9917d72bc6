"""A server on the GPU over HTTP: requests of one short text by many clients, and of many long texts.

Everything a client waits for is in it: HTTP, tokenising (a word for a token), queue, batches, base64. The load runs in
a process of its own on the same machine; no text comes twice.
"""

from __future__ import annotations

import argparse
import sys
import urllib.request
from pathlib import Path

from report import ROOT, make_shape, report

sys.path.insert(0, str(ROOT / "benchmarks"))

from serving import free_port, inlay_serve, running

from inlay.bench.server import WORDS, Requests, ServerBench
from inlay.bench.shapes import SHAPES, write_tokenizer
from inlay.bench.target import Target

SECONDS = 4.0
LOADS = ((1, 1, 31), (1, 16, 31), (1, 64, 31), (1, 256, 31), (64, 8, 127), (16, 16, 511))  # texts, connections, words


def measure(port: int, label: str) -> None:
    for texts, connections, words in LOADS:
        bench = ServerBench(Target(f"http://127.0.0.1:{port}"), Requests(None, texts, words, words))
        bench.warm_up()
        (row,) = bench.sweep([connections], SECONDS)
        if row["errors"]:
            raise SystemExit(f"{label}: {row['errors']}")
        report(
            f"{label}: {connections} clients, {texts} of {words + 1}",
            row["tokens_per_s"],
            "tokens/s",
            requests_per_s=row["qps"],
            p50_ms=row["p50_ms"],
            p99_ms=row["p99_ms"],
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", default="qwen3-embedding-0.6b,minilm")
    parser.add_argument("--dtypes", default="bfloat16")
    options, _ = parser.parse_known_args()
    for name in options.shapes.split(","):
        shape = make_shape(name)
        folder = Path(shape.folder.name)
        write_tokenizer(folder / "tokenizer.json", WORDS)
        for dtype in options.dtypes.split(","):
            port = free_port()
            cache = ["--cache", "none", "--dtype", dtype, "--device", "cuda"]
            command = inlay_serve(port, *cache, "--context-length", str(min(8192, limit_of(name))), model=str(folder))
            with running(command, port):
                measure(port, f"{name} {dtype} over HTTP")
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
                    lines = reply.read().decode().splitlines()
                (held,) = [line for line in lines if line.startswith("inlay_engine_device_bytes{")]
                report(f"{name} {dtype} over HTTP: memory of the device", float(held.split()[-1]) / 2**30, "GiB")


def limit_of(name: str) -> int:
    positions: int = SHAPES[name]["max_position_embeddings"]
    return positions


if __name__ == "__main__":
    main()
