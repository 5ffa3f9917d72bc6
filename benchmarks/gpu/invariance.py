"""--deterministic: the sizes of batches in which a text has other bits, and what it costs."""

from __future__ import annotations

import numpy as np
import torch
from model import host_seconds, rate_of
from report import lengths_of, make_shape, random_batch, report, sequence_of

from inlay.engine.batch import pack
from inlay.engine.device import choose
from inlay.engine.invariance import forbid_split_sums, sizes_that_differ
from inlay.engine.runner import Runner
from inlay.types import IntArray


def main() -> None:
    generator = np.random.default_rng(0)
    shapes = {name: make_shape(name) for name in ("qwen3-embedding-0.6b", "bge-m3", "minilm")}
    for is_deterministic in (False, True):
        if is_deterministic:
            forbid_split_sums()
        for name, shape in shapes.items():
            runner = Runner(shape.spec, choose("cuda", "bfloat16"), is_deterministic=is_deterministic)
            runner._planner._prefixes = None
            rows = shape.spec.vocab_rows

            def run(texts: list[IntArray], runner: Runner = runner) -> list[bytes | None]:
                batch = pack([sequence_of(ids) for ids in texts])
                payloads = runner.collect(runner.launch(batch))["dense"]
                place = {one.ids.tobytes(): row for one, row in zip(batch.sequences, batch.rows, strict=True)}
                return [payloads[place[ids.tobytes()]] for ids in texts]

            label = f"{name} {'deterministic' if is_deterministic else 'as it comes'}"
            report(f"{label}: sizes that differ", str(sizes_that_differ(run, rows, 16_384)))
            length = min(512, shape.spec.max_tokens)
            batches = [random_batch(lengths_of(16_384, length), rows, generator) for _ in range(8)]
            report(f"{label}: 16384 tokens of {length}", rate_of(runner, batches), "tokens/s")
            batches = [random_batch([32], rows, generator) for _ in range(40)]
            report(f"{label}: 1×32", host_seconds(runner, batches) * 1000, "ms")


if __name__ == "__main__":
    torch.inference_mode()(main)()
