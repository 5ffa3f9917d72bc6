"""Short texts through the demo model in bulk: Inlay's library beside sentence-transformers, in one run.

Same texts, same process, alternating, nothing cached; the median of the runs. Needs the `dev` extra.

    .venv/bin/python benchmarks/against_sentence_transformers.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

from sentence_transformers import SentenceTransformer

from inlay import Embedder
from inlay.models.source import locate

WORDS = "river stone quiet harbour signal winter market paper garden engine window letter bridge silver".split()


def make_texts(number: int) -> list[str]:
    """Texts of about 15 tokens, all different."""
    return [" ".join(WORDS[(i * 7 + j * (3 + i % 5)) % len(WORDS)] for j in range(12)) + f" {i}" for i in range(number)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    texts = make_texts(options.texts)
    reference = SentenceTransformer(str(locate("demo")), device="cpu")
    engines: dict[str, Callable[[], object]] = {
        "sentence-transformers float32": lambda: reference.encode(texts, batch_size=64)
    }
    embedders = {dtype: Embedder("demo", dtype=dtype, cache="none") for dtype in ("float32", "bfloat16")}
    for dtype, embedder in embedders.items():
        engines[f"inlay {dtype}"] = lambda embedder=embedder: embedder.embed(texts)
    times: dict[str, list[float]] = {name: [] for name in engines}
    for run in range(options.runs + 1):
        for name, engine in engines.items():
            began = time.perf_counter()
            engine()
            if run:  # the first warms up
                times[name].append(time.perf_counter() - began)
    rates = {name: len(texts) / statistics.median(seconds) for name, seconds in times.items()}
    base = rates["sentence-transformers float32"]
    for name, rate in rates.items():
        print(f"{name:32}{rate:>8.0f} texts/s{rate / base:>8.2f} ×")
    print(json.dumps({name: round(rate) for name, rate in rates.items()}))
    for embedder in embedders.values():
        embedder.close()


if __name__ == "__main__":
    main()
