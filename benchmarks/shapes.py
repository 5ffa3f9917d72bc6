"""A checkpoint of Qwen3-Embedding-0.6B's shape with random weights and a tokenizer that takes a word for a token."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from inlay.models.qwen3 import Qwen3

CONFIG = {
    "model_type": "qwen3",
    "vocab_size": 151_669,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32_768,
    "rope_theta": 1_000_000,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
}
END = "<|endoftext|>"


def make_checkpoint(folder: Path, words: list[str], num_layers: int = 28) -> int:
    """Write it into a folder (1.2 GB with all layers); the bytes of its weights."""
    config = {**CONFIG, "num_hidden_layers": num_layers}
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {word: place for place, word in enumerate([END, "<unk>", *dict.fromkeys(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Qwen3(config, torch.bfloat16).state_dict().items()}
    torch.manual_seed(0)
    weights = {name: torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return sum(tensor.nbytes for tensor in weights.values())
