"""Synthetic checkpoints: the true shape of a published model, random weights, a word for a token.

In: the name of a shape and an empty folder. Out: a checkpoint in it that loads like the real one. Speed and
memory depend on shapes alone, so nothing has to be downloaded to measure them; the vectors mean nothing.

    python -m inlay.bench.shapes SHAPE FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inlay.errors import ConfigError

POOL = (1 << 24) + 9973  # random values drawn once and laid out again and again; no multiple of a row
SHARD = 4 << 30  # bytes of weights in one file, all of which are held while it is written
END, UNKNOWN = "<|endoftext|>", "<unk>"


def _qwen3(hidden: int, inner: int, layers: int, heads: int, vocab: int, positions: int) -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": positions,
        "rope_theta": 1_000_000,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
    }


def _bert(kind: str, hidden: int, layers: int, heads: int, vocab: int, positions: int, types: int) -> dict[str, Any]:
    return {
        "model_type": kind,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        "layer_norm_eps": 1e-12 if kind == "bert" else 1e-5,
        "pad_token_id": 0 if kind == "bert" else 1,
        "hidden_act": "gelu",
        "torch_dtype": "float32",
    }


SHAPES: Mapping[str, dict[str, Any]] = {
    "qwen3-embedding-0.6b": _qwen3(1024, 3072, 28, 16, 151_669, 32_768),
    "qwen3-embedding-4b": _qwen3(2560, 9728, 36, 32, 151_665, 40_960),
    "qwen3-embedding-8b": _qwen3(4096, 12_288, 36, 32, 151_665, 40_960),
    "bge-m3": _bert("xlm-roberta", 1024, 24, 16, 250_002, 8194, 1),
    "minilm": _bert("bert", 384, 6, 12, 30_522, 512, 2),
}


def shape_config(shape: str) -> dict[str, Any]:
    """config.json of a shape; `ConfigError` lists the known ones."""
    if shape not in SHAPES:
        raise ConfigError(f"--shape {shape}: there is no such shape; use {', '.join(SHAPES)}")
    return SHAPES[shape]


def make_checkpoint(folder: Path, config: Mapping[str, Any], words: list[str] | None = None) -> int:
    """Write a checkpoint of a config; `words` are the tokenizer's vocabulary. The bytes of its weights."""
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder / "tokenizer.json", words or [])
    return _write_weights(folder, config)


def write_tokenizer(file: Path, words: list[str]) -> None:
    """A word for a token; what is not among `words` is unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: place for place, word in enumerate([END, UNKNOWN, *dict.fromkeys(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 0)])
    tokenizer.save(str(file))


def _write_weights(folder: Path, config: Mapping[str, Any]) -> int:
    import torch
    from safetensors.torch import save_file

    from inlay.models.registry import forward_class

    dtype = getattr(torch, config["torch_dtype"])
    with torch.device("meta"):
        model = forward_class(config["model_type"])(config, dtype)
        wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    pool = torch.empty(POOL, dtype=torch.float32).normal_(std=0.02, generator=generator).to(dtype)
    places: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    drawn = written = 0

    def flush() -> None:
        nonlocal written
        name = f"model-{len(set(places.values())) + 1:05}.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        written += sum(tensor.nbytes for tensor in shard.values())
        places.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, shape in wanted.items():
        count = shape.numel()
        start = drawn % POOL
        repeats = -(-(start + count) // POOL)
        shard[name] = (pool.repeat(repeats) if repeats > 1 else pool)[start : start + count].view(shape).clone()
        if len(shape) == 1 and name.endswith("weight"):
            shard[name] += 1.0  # norms scale by about one
        drawn += count
        if sum(tensor.nbytes for tensor in shard.values()) > SHARD:
            flush()
    flush()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return written


if __name__ == "__main__":
    make_checkpoint(Path(sys.argv[2]), shape_config(sys.argv[1]))
