"""The engine as it serves: latency and tokens a second, a shared instruction, a query beside bulk, and a peer.

Through the worker's queue, scheduler and batches; texts are ids, so tokenising is not in it. The peer is
sentence-transformers in bfloat16, in the same process, turn by turn.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from report import allow_any_fp8, lengths_of, make_shape, report

from inlay.bench.ask import Asker
from inlay.config_values import make_settings
from inlay.engine.loading import load_engine
from inlay.engine.worker import DeviceWorker
from inlay.types import ModelSpec, WorkerStats

INSTRUCTION = [641, 1235, 25, 16246, 264, 3482, 2711, 3239, 11, 17179, 9760, 46769, 429, 4226, 279, 3239, 198, 2859, 25]
BARS = {"qwen3-embedding-0.6b": 480_000, "qwen3-embedding-4b": 75_000, "qwen3-embedding-8b": 42_000}
BULK_TOKENS = {"qwen3-embedding-0.6b": 1_000_000, "qwen3-embedding-4b": 400_000, "qwen3-embedding-8b": 200_000}
CLIENTS, REQUEST_TOKENS = 8, 8192


def load(spec: ModelSpec, dtype: str) -> DeviceWorker:
    settings = make_settings({"dtype": dtype, "device": "cuda", "max_queue_tokens": 1 << 24})
    worker = DeviceWorker(spec, lambda spec, stats: load_engine(spec, settings, stats), 1000)
    worker.wait_loaded()
    return worker


def settle() -> None:
    """What is there now is not looked through by the collector any more: the lists of a benchmark are its own."""
    gc.collect()
    gc.freeze()


def ids_of(generator: np.random.Generator, lengths: list[int], rows: int) -> list[list[int]]:
    return [generator.integers(0, rows, length).tolist() for length in lengths]


def median_seconds(asker: Asker, lists: list[list[list[int]]]) -> tuple[float, float]:
    """Median and 99th percentile of asking each."""
    taken = []
    for one in lists:
        began = time.perf_counter()
        asker.ask(one)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken), float(np.percentile(taken, 99))


def latencies(asker: Asker, label: str, rows: int, generator: np.random.Generator) -> None:
    for count, length in (
        (1, 16),
        (1, 32),
        (1, 64),
        (1, 128),
        (1, 256),
        (1, 512),
        (8, 64),
        (8, 128),
        (8, 256),
        (8, 512),
    ):
        lists = [ids_of(generator, [length] * count, rows) for _ in range(60)]
        settle()
        asker.ask(lists[0])
        median, worst = median_seconds(asker, lists[5:])
        more = {"bar": 1.5} if (count, length) == (1, 32) and "0.6b bf" in label else {}
        report(f"{label}: {count}×{length} P50", median * 1000, "ms", p99=round(worst * 1000, 2), **more)


def rate_of_clients(worker: DeviceWorker, requests: list[list[list[int]]]) -> float:
    """Texts a second, with as many requests waiting at a time as there are clients."""
    waiting = iter(requests)
    lock = threading.Lock()

    def ask(number: int) -> None:
        asker = Asker(worker)
        asker._ids = iter(range(number << 32, (number + 1) << 32))
        while True:
            with lock:
                request = next(waiting, None)
            if request is None:
                return
            asker.ask(request)

    threads = [threading.Thread(target=ask, args=(number + 1,)) for number in range(CLIENTS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(map(len, requests)) / (time.perf_counter() - began)


def requests_of(lists: list[list[int]], tokens: int) -> list[list[list[int]]]:
    """Requests of about so many tokens."""
    found: list[list[list[int]]] = [[]]
    for one in lists:
        if sum(map(len, found[-1])) + len(one) > tokens:
            found.append([])
        found[-1].append(one)
    return found


def rates(worker: DeviceWorker, name: str, label: str, rows: int, generator: np.random.Generator) -> None:
    for length in (32, 128, 512, "mixed"):
        lists = ids_of(generator, lengths_of(BULK_TOKENS[name], length), rows)
        requests = requests_of(lists, REQUEST_TOKENS)
        settle()
        rate_of_clients(worker, requests[: len(requests) // 4])
        before = WorkerStats(*(getattr(worker.stats, name) for name in WorkerStats.__struct_fields__))
        began = time.perf_counter()
        texts = rate_of_clients(worker, requests)
        busy = (worker.stats.busy_seconds - before.busy_seconds) / (time.perf_counter() - began)
        batches = worker.stats.batches - before.batches
        more = {"bar": BARS[name]} if length == 512 and "bfloat16" in label else {}
        tokens = texts * sum(map(len, lists)) / len(lists)
        report(
            f"{label}: {CLIENTS} clients, texts of {length}",
            tokens,
            "tokens/s",
            texts_per_s=round(texts),
            busy=round(busy, 3),
            batches=batches,
            **more,
        )


def shared_instruction(worker: DeviceWorker, label: str, rows: int, generator: np.random.Generator) -> None:
    planner = worker._engine.runner._planner  # the benchmark looks inside to switch it off
    store, found = planner._prefixes, {}
    for turn in range(6):
        planner._prefixes = store if turn % 2 else None
        lists = [[*INSTRUCTION, *ids] for ids in ids_of(generator, generator.integers(7, 13, 12_000).tolist(), rows)]
        found.setdefault(turn % 2, []).append(rate_of_clients(worker, requests_of(lists, REQUEST_TOKENS)))
    planner._prefixes = store
    without, kept = (statistics.median(found[turn][1:]) for turn in (0, 1))
    report(f"{label}: queries with an instruction, kept", kept, "texts/s")
    report(f"{label}: beside each query whole", kept / without, "×", bar=1.8)


def beside_bulk(worker: DeviceWorker, asker: Asker, label: str, rows: int, generator: np.random.Generator) -> None:
    """Queries of 32 tokens while a bulk request runs: how long they wait."""
    lists = ids_of(generator, [512] * 2000, rows)
    bulk = threading.Thread(target=asker.ask, args=(lists,))
    query = Asker(worker)
    query._ids = iter(range(1 << 40, 1 << 41))
    taken = []
    bulk.start()
    time.sleep(0.1)
    while bulk.is_alive():
        one = ids_of(generator, [32], rows)
        began = time.perf_counter()
        query.ask(one)
        taken.append(time.perf_counter() - began)
        time.sleep(0.005)
    taken = taken[:-1]
    tokens = worker._engine.queue._scheduler.max_batch_tokens
    budget = worker._engine.loop._pace.expected_seconds(tokens - 1)  # of a full batch
    report(f"{label}: a query beside bulk P50", statistics.median(taken) * 1000, "ms", queries=len(taken))
    report(
        f"{label}: a query beside bulk P99", float(np.percentile(taken, 99)) * 1000, "ms", bar=round(2000 * budget, 1)
    )


def beside_long_input(worker: DeviceWorker, asker: Asker, label: str, generator: np.random.Generator) -> None:
    """One input of the model's full length, and queries of 32 tokens meanwhile."""
    spec = worker.spec
    query = Asker(worker)
    query._ids = iter(range(1 << 41, 1 << 42))
    long = ids_of(generator, [spec.max_tokens], spec.vocab_rows)
    asker.ask(long)
    began = time.perf_counter()
    asker.ask(long)
    report(f"{label}: an input of {spec.max_tokens}", (time.perf_counter() - began) * 1000, "ms")
    thread = threading.Thread(target=asker.ask, args=(long * 4,))
    thread.start()
    taken = []
    time.sleep(0.05)
    while thread.is_alive():
        one = ids_of(generator, [32], spec.vocab_rows)
        began = time.perf_counter()
        query.ask(one)
        taken.append(time.perf_counter() - began)
    report(f"{label}: a query beside it P50", statistics.median(taken) * 1000, "ms", queries=len(taken))
    report(f"{label}: a query beside it, worst", max(taken[:-1] or taken) * 1000, "ms")


def beside_peer(folder: Path, asker: Asker, label: str, rows: int, generator: np.random.Generator) -> None:
    """sentence-transformers' own loop over the same ids: sorted by length, batches of 64 and 8, sdpa."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa").cuda().eval()

    @torch.inference_mode()
    def encode(lists: list[list[int]], size: int) -> None:
        ordered = sorted(lists, key=len, reverse=True)
        for start in range(0, len(ordered), size):
            part = ordered[start : start + size]
            longest = max(map(len, part))
            ids = torch.zeros(len(part), longest, dtype=torch.int64)
            mask = torch.zeros(len(part), longest, dtype=torch.int64)
            for number, one in enumerate(part):
                ids[number, longest - len(one) :] = torch.tensor(one)
                mask[number, longest - len(one) :] = 1
            hidden = model(input_ids=ids.cuda(), attention_mask=mask.cuda()).last_hidden_state[:, -1]
            torch.nn.functional.normalize(hidden.float(), dim=1).cpu()

    for name, lengths, size, bar in (("mixed", lengths_of(100_000, "mixed"), 64, 2.5), ("8×512", [512] * 8, 8, 1.5)):
        ours, theirs = [], []
        for turn in range(6):
            lists = ids_of(generator, lengths, rows)
            began = time.perf_counter()
            asker.ask(lists)
            middle = time.perf_counter()
            encode(lists, size)
            if turn:
                ours.append(middle - began)
                theirs.append(time.perf_counter() - middle)
        ratio = statistics.median(theirs) / statistics.median(ours)
        tokens = sum(lengths)
        report(
            f"{label}: {name} beside transformers sdpa",
            ratio,
            "×",
            bar=bar,
            theirs=round(tokens / statistics.median(theirs)),
            ours=round(tokens / statistics.median(ours)),
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", default="qwen3-embedding-0.6b")
    parser.add_argument("--dtypes", default="bfloat16")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--switch-interval", type=float, help="of Python's threads, in seconds")
    options, _ = parser.parse_known_args()
    generator = np.random.default_rng(0)
    allow_any_fp8()
    if options.switch_interval:
        sys.setswitchinterval(options.switch_interval)
    for name in options.shapes.split(","):
        shape = make_shape(name)
        rows = shape.spec.vocab_rows
        for dtype in options.dtypes.split(","):
            began = time.perf_counter()
            worker, label = load(shape.spec, dtype), f"{name} {dtype}"
            asker = Asker(worker)
            tokens = worker._engine.queue._scheduler.max_batch_tokens
            report(
                f"{label}: loaded",
                time.perf_counter() - began,
                "s",
                max_batch_tokens=tokens,
                gib=round(torch.cuda.memory_reserved() / 2**30, 2),
            )
            latencies(asker, label, rows, generator)
            rates(worker, name, label, rows, generator)
            if dtype == "bfloat16":
                shared_instruction(worker, label, rows, generator)
                beside_bulk(worker, asker, label, rows, generator)
                beside_long_input(worker, asker, label, generator)
                if not options.no_peer:
                    beside_peer(Path(shape.folder.name), asker, label, rows, generator)
            worker.close()
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
