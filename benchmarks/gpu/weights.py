"""Real weights: the vectors that the GPU gives, by dtype, beside those of the processor in float32.

Needs `--model`, a directory or a hub id; texts are the lines of this project's own pages.
"""

from __future__ import annotations

import argparse

import numpy as np
from report import ROOT, report

from inlay import Embedder

DTYPES = ("float32", "bfloat16", "float16", "fp8")
LEAST = {"float32": 0.99999, "bfloat16": 0.999, "float16": 0.9999, "fp8": 0.997}  # mean cosine


def texts_of_pages() -> list[str]:
    lines = [line.strip() for page in sorted((ROOT / "docs").glob("*.md")) for line in page.read_text().splitlines()]
    return list(dict.fromkeys(line for line in lines if len(line) > 20))[:1000]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    options, _ = parser.parse_known_args()
    if options.model is None:
        raise SystemExit("weights: give --with=--model=DIR")
    texts = texts_of_pages()
    with Embedder(options.model, dtype="float32", device="cpu", cache="none") as on_cpu:
        expected = on_cpu.embed(texts)
    near = expected @ expected.T - 2 * np.eye(len(texts))
    for dtype in DTYPES:
        with Embedder(options.model, dtype=dtype, device="cuda", cache="none") as on_gpu:
            found = on_gpu.embed(texts)
        cosines = (found * expected).sum(axis=1)
        same = (near.argmax(1) == (found @ found.T - 2 * np.eye(len(texts))).argmax(1)).mean()
        report(
            f"{dtype} beside float32 on the processor: mean cosine",
            round(float(cosines.mean()), 6),
            bar=LEAST[dtype],
            worst=round(float(cosines.min()), 6),
            same_neighbour=round(float(same), 4),
            texts=len(texts),
        )


if __name__ == "__main__":
    main()
