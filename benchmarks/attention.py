"""Attention alone: the compiled kernel against torch's operators, by the shapes of Qwen3-Embedding-0.6B and MiniLM.

Medians of alternating runs; GFLOP/s counts what lies below the diagonal. Prints a table and one JSON line.

    .venv/bin/python benchmarks/attention.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from serving import print_table
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from inlay.ops.attention import attend_in_blocks, attention
from inlay.ops.layout import Layout

# Name → number of sequences, their length, heads, kv heads, head width, is causal.
SHAPES = {
    "0.6B 1x2048": (1, 2048, 16, 8, 128, True),
    "0.6B 4x512": (4, 512, 16, 8, 128, True),
    "0.6B 8x128": (8, 128, 16, 8, 128, True),
    "MiniLM 8x128": (8, 128, 12, 12, 32, False),
    "MiniLM 68x15": (68, 15, 12, 12, 32, False),
}
RUNS = 9


def main() -> None:
    rows = {}
    for name, (count, length, heads, kv_heads, width, is_causal) in SHAPES.items():
        packed = torch.randn(count * length, heads + 2 * kv_heads, width).bfloat16()
        q, k, v = packed.split([heads, kv_heads, kv_heads], dim=1)
        layout = Layout.of(np.arange(count + 1, dtype=np.int64) * length, torch.device("cpu"))
        padded = [x.reshape(count, length, -1, width).transpose(1, 2) for x in (q, k, v)]

        ways: dict[str, Callable[[], Tensor]] = {
            "torch": partial(scaled_dot_product_attention, *padded, is_causal=is_causal, enable_gqa=True),
            "products": partial(attend_in_blocks, q, k, v, layout, is_causal=is_causal),
            "kernel": partial(attention, q, k, v, layout, layout, is_causal=is_causal),
        }
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(RUNS):
            for way, run in ways.items():
                began = time.perf_counter()
                run()
                taken[way].append(time.perf_counter() - began)
        seconds = {way: statistics.median(each) for way, each in taken.items()}
        operations = 4 * count * length**2 * heads * width / (2 if is_causal else 1)
        rows[name] = {
            **{f"{way} ms": round(each * 1000, 2) for way, each in seconds.items()},
            "GFLOP/s": round(operations / seconds["kernel"] / 1e9),
            "× torch": round(seconds["torch"] / seconds["kernel"], 1),
        }
    print_table(rows)


if __name__ == "__main__":
    main()
