"""A whole model without an engine: how long a text takes, tokens a second by length, and where the time goes."""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from report import allow_any_fp8, lengths_of, make_shape, random_batch, report

from inlay.engine.batch import Batch
from inlay.engine.device import choose
from inlay.engine.runner import Runner

PREDICTED = {"qwen3-embedding-0.6b": 538_000, "qwen3-embedding-4b": 84_000, "qwen3-embedding-8b": 46_000}
BARS = {"qwen3-embedding-0.6b": 480_000, "qwen3-embedding-4b": 75_000, "qwen3-embedding-8b": 42_000}


def host_seconds(runner: Runner, batches: list[Batch]) -> float:
    taken = []
    for batch in batches:
        began = time.perf_counter()
        runner.collect(runner.launch(batch))
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def rate_of(runner: Runner, batches: list[Batch]) -> float:
    """Tokens a second with the next batch launched while one runs."""
    for batch in batches[:2]:
        runner.collect(runner.launch(batch))
    batches = batches[2:]  # new texts each time: what comes again would run behind what is kept of it
    began = time.perf_counter()
    flying = None
    for batch in batches:
        launched = runner.launch(batch)
        if flying is not None:
            runner.collect(flying)
        flying = launched
    runner.collect(flying)
    return sum(batch.num_tokens for batch in batches) / (time.perf_counter() - began)


def profile(runner: Runner, batch: Batch, name: str) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiling

    with profiling(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as taken:
        for _ in range(3):
            runner.collect(runner.launch(batch))
    rows = sorted(taken.key_averages(), key=lambda row: row.self_device_time_total, reverse=True)
    total = sum(row.self_device_time_total for row in rows)
    for row in rows[:12]:
        share = row.self_device_time_total / total
        report(
            f"{name} top: {row.key[:44]}",
            f"{share:.1%}",
            f"{row.count // 3} × {row.self_device_time_total / row.count:.1f} µs",
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", default="qwen3-embedding-0.6b")
    parser.add_argument("--dtypes", default="bfloat16")
    parser.add_argument("--no-profile", action="store_true")
    options, _ = parser.parse_known_args()
    generator = np.random.default_rng(0)
    allow_any_fp8()
    for name in options.shapes.split(","):
        began = time.perf_counter()
        shape = make_shape(name)
        report(f"{name}: checkpoint written", time.perf_counter() - began, "s")
        for dtype in options.dtypes.split(","):
            began = time.perf_counter()
            sample = random_batch([64] * 8, shape.spec.vocab_rows, generator).sequences
            runner = Runner(shape.spec, choose("cuda", dtype), lambda sample=sample: sample)
            report(
                f"{name} {dtype}: loaded",
                time.perf_counter() - began,
                "s",
                peak_gib=round(torch.cuda.max_memory_allocated() / 2**30, 2),
                reserved_gib=round(torch.cuda.memory_reserved() / 2**30, 2),
            )
            measure(runner, f"{name} {dtype}", name, generator, with_profile=not options.no_profile)
            del runner
            torch.cuda.empty_cache()


def measure(runner: Runner, label: str, name: str, generator: np.random.Generator, *, with_profile: bool) -> None:
    rows = runner.spec.vocab_rows
    for length in (16, 32, 64, 256, 512):
        batches = [random_batch([length], rows, generator) for _ in range(60)]
        predicted = {"predicted": 0.8} if length <= 32 and "0.6b" in name else {}
        report(f"{label}: 1×{length}", host_seconds(runner, batches) * 1000, "ms", **predicted)
    graphs, runner._pass = runner._pass, runner._model
    batches = [random_batch([32], rows, generator) for _ in range(20)]
    report(f"{label}: 1×32 launched, no graph", host_seconds(runner, batches) * 1000, "ms")
    runner._pass = graphs
    for tokens in (2048, 4096, 8192, 16_384):
        batches = [random_batch(lengths_of(tokens, 512), rows, generator) for _ in range(16)]
        more = {"predicted": PREDICTED[name], "bar": BARS[name]} if tokens == 16_384 and "bf" in label else {}
        report(f"{label}: {tokens} tokens of 512", rate_of(runner, batches), "tokens/s", **more)
    for length in (64, 128, 2048, "mixed"):
        batches = [random_batch(lengths_of(8192, length), rows, generator) for _ in range(16)]
        report(f"{label}: 8192 tokens of {length}", rate_of(runner, batches), "tokens/s")
    if with_profile:
        profile(runner, random_batch(lengths_of(8192, 512), rows, generator), label)
        profile(runner, random_batch([32], rows, generator), f"{label} 1×32")


if __name__ == "__main__":
    torch.inference_mode()(main)()
