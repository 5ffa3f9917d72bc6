"""Replays beside launches, bit for bit, with batches of unequal lengths in turn; and one text among others."""

from __future__ import annotations

import time

import numpy as np
import torch
from report import make_shape, random_batch, report, sequence_of

from inlay.engine.batch import Batch, pack
from inlay.engine.device import choose
from inlay.engine.runner import Runner


def payloads(runner: Runner, batch: Batch) -> list[bytes | None]:
    return next(iter(runner.collect(runner.launch(batch)).values()))


def main() -> None:
    generator = np.random.default_rng(0)
    for name, layers in (("qwen3-embedding-0.6b", 4), ("minilm", None), ("bge-m3", 2)):
        shape = make_shape(name, layers)
        began = time.perf_counter()
        runner = Runner(shape.spec, choose("cuda", "bfloat16"))
        report(f"{name}: loaded and captured", time.perf_counter() - began, "s")
        graphs, eager = runner._pass, runner._model
        runner._planner._prefixes = None  # a batch that comes twice would run behind what is kept of it
        report(f"{name}: graphs", len(graphs._captured), bar=16)
        different, cases = 0, 0
        sizes = [
            (1, 16),
            (3, 5),
            (2, 60),
            (20, 7),
            (7, 100),
            (100, 12),
            (4, 512),
            (30, 60),
            (400, 5),
            (64, 64),
            (9, 400),
        ]
        for count, longest in [*sizes, *reversed(sizes)]:
            lengths = generator.integers(1, longest + 1, count).tolist()
            batch = random_batch(lengths, shape.spec.vocab_rows, generator)
            runner._pass = graphs
            replayed = payloads(runner, batch)
            runner._pass = eager
            different += replayed != payloads(runner, batch)
            cases += 1
        report(f"{name}: replays that differ from launches, of {cases}", different, bar=0)
        runner._pass = graphs
        ids = generator.integers(0, shape.spec.vocab_rows, 20)
        alone = payloads(runner, pack([sequence_of(ids)]))[0]
        among = [
            payloads(runner, pack([sequence_of(ids), *random_batch([20 + n] * n, 1000, generator).sequences]))
            for n in (1, 9, 40)
        ]
        report(f"{name}: the same bits among 1, 9 and 40 others", str([found[0] == alone for found in among]))


if __name__ == "__main__":
    torch.inference_mode()(main)()
