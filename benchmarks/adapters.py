"""Eight adapters that share one base: the memory they cost, and the rate of batches that mix them.

Random weights of the 0.6B model's shape, adapters of rank 16 on all seven products of each layer. Memory is that of a
process of its own after a batch: what it holds itself, and the table of tokens where that stays mapped. Rates are of
batches in which every text has another adapter than the one before, beside batches of the base, in turn. Prints a table
and one JSON line.

    .venv/bin/python benchmarks/adapters.py --dtype bfloat16
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec.structs import replace
from safetensors.torch import save_file

from inlay.bench.card import machine_card
from inlay.bench.shapes import SHAPES, make_checkpoint
from inlay.engine.batch import Batch, pack
from inlay.engine.batch import Sequence as EngineSequence
from inlay.engine.device import choose
from inlay.engine.runner import Runner
from inlay.models.adapters import with_adapters
from inlay.models.spec import read_spec
from inlay.types import ModelSpec, Priority, Truncate, Work

SHAPE = "qwen3-embedding-0.6b"


def make_adapter(folder: Path, config: dict[str, Any], rank: int, seed: int) -> None:
    """In peft's layout, with random weights on all products."""
    generator = torch.Generator().manual_seed(seed)
    width, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    widths = {
        "self_attn.q_proj": (width, queries),
        "self_attn.k_proj": (width, keys),
        "self_attn.v_proj": (width, keys),
        "self_attn.o_proj": (queries, width),
        "mlp.gate_proj": (width, inner),
        "mlp.up_proj": (width, inner),
        "mlp.down_proj": (inner, width),
    }
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for path, (width_in, width_out) in widths.items():
            name = f"base_model.model.layers.{layer}.{path}.lora_"
            tensors[f"{name}A.weight"] = 0.01 * torch.randn(rank, width_in, generator=generator)
            tensors[f"{name}B.weight"] = 0.01 * torch.randn(width_out, rank, generator=generator)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = sorted(path.rpartition(".")[2] for path in widths)
    about = {"peft_type": "LORA", "lora_alpha": 2 * rank, "r": rank, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps({**about, "base_model_name_or_path": SHAPE}))


def batch_of(adapters: Sequence[str], texts: int, tokens: int, seed: int) -> Batch:
    generator = np.random.default_rng(seed)
    sequences = []
    for number in range(texts):
        work = replace(Work(number, "", Truncate.NONE, 0), adapter=adapters[number % len(adapters)])
        ids = generator.integers(0, 150_000, tokens)
        sequences.append(EngineSequence(work, lambda answers: None, 0.0, Priority.NORMAL, ids))
    return pack(sequences)


def resident(spec: ModelSpec, dtype: str, answer: Any) -> None:  # noqa: ANN401 - a queue
    """Bytes of a process that serves a model, after a batch."""
    runner = Runner(spec, choose("cpu", dtype))
    runner.collect(runner.launch(batch_of(["", *spec.adapters], 16, 64, 0)))
    status = Path("/proc/self/status").read_text()
    table = runner._model.embed_tokens.weight  # type: ignore[union-attr]
    is_mapped = table.dtype == torch.bfloat16  # as it is stored
    answer.put((int(status.split("RssAnon:")[1].split()[0]) << 10) + (table.nbytes if is_mapped else 0))


def measure_memory(spec: ModelSpec, dtype: str) -> int:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=resident, args=(spec, dtype, answer))
    process.start()
    found: int = answer.get(timeout=300)
    process.join()
    return found


def measure_rates(spec: ModelSpec, options: argparse.Namespace) -> dict[str, float]:
    """Tokens a second, the median of alternating rounds."""
    runner = Runner(spec, choose("cpu", options.dtype))
    kinds = {"base": [""], "one adapter": [next(iter(spec.adapters))], "all mixed": ["", *spec.adapters]}
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(options.rounds + 1):
        for kind, adapters in kinds.items():
            batch = batch_of(adapters, options.texts, options.tokens, number)
            began = time.perf_counter()
            runner.collect(runner.launch(batch))
            if number:
                taken[kind].append(batch.num_tokens / (time.perf_counter() - began))
    return {kind: statistics.median(rates) for kind, rates in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default=SHAPE, choices=[name for name in SHAPES if "qwen3" in name])
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="of each text")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        base.mkdir()
        make_checkpoint(base, SHAPES[options.shape])
        for number in range(options.adapters):
            make_adapter(Path(name) / f"a{number}", SHAPES[options.shape], options.rank, number)
        alone = read_spec(base, "base")
        (spec,) = with_adapters([alone], [f"a{number}={name}/a{number}" for number in range(options.adapters)])
        memory = {
            "base alone": measure_memory(alone, options.dtype),
            "with adapters": measure_memory(spec, options.dtype),
        }
        rates = measure_rates(spec, options)
    figures = {
        "memory_ratio": round(memory["with adapters"] / memory["base alone"], 3),
        "mixed_rate": round(rates["all mixed"] / rates["base"], 3),
        "one_adapter_rate": round(rates["one adapter"] / rates["base"], 3),
    }
    rows = {what: {"MiB": round(number / 2**20)} for what, number in memory.items()}
    rows |= {what: {"tokens/s": round(rate)} for what, rate in rates.items()}
    for what, measured in rows.items():
        print(f"{what:16}", *(f"{number} {unit}" for unit, number in measured.items()))
    print(json.dumps({"machine": machine_card(), **vars(options), **figures}))


if __name__ == "__main__":
    main()
