"""What publishers' own code gives for the tiny checkpoints: transformers, or what stands here where it has no port."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from torch import Tensor

Hidden = Callable[[list[int]], Tensor]  # ids of one sequence → its hidden states [L, width]


def load_reference(path: Path) -> Hidden:
    """In float32, one sequence at a time: no padding and no mask to get wrong."""
    if not (path / "config.json").exists():
        table = load_file(path / "0_StaticEmbedding" / "model.safetensors")["embedding.weight"].float()
        return lambda ids: table[ids]
    config = json.loads((path / "config.json").read_text())
    if config["model_type"] == "new":
        return _of_module(_load_new(path, config))
    if config.get("position_embedding_type") == "alibi":
        return JinaBert(config, load_file(path / "model.safetensors"))
    if config["model_type"] in ("qwen2", "qwen3") and config.get("is_causal") is False:
        return _of_bidirectional(transformers.AutoModel.from_pretrained(path, dtype=torch.float32).eval())
    return _of_module(transformers.AutoModel.from_pretrained(path, dtype=torch.float32).eval())


def _of_module(model: torch.nn.Module) -> Hidden:
    def hidden(ids: list[int]) -> Tensor:
        states: Tensor = model(torch.tensor([ids])).last_hidden_state[0]
        return states

    return hidden


def _of_bidirectional(model: torch.nn.Module) -> Hidden:
    """With a mask that hides nothing in place of the causal one."""

    def hidden(ids: list[int]) -> Tensor:
        mask = torch.zeros(1, 1, len(ids), len(ids))
        states: Tensor = model(torch.tensor([ids]), attention_mask={"full_attention": mask}).last_hidden_state[0]
        return states

    return hidden


def _load_new(path: Path, config: dict[str, object]) -> torch.nn.Module:
    """transformers' `gte`, whose linear factor is to give the vendor's frequencies (models of type `new`)."""
    scaling = config.pop("rope_scaling")
    theta, factor = float(config.pop("rope_theta")), float(scaling["factor"])  # type: ignore[arg-type, index]
    head_dim = config["hidden_size"] // config["num_attention_heads"]  # type: ignore[operator]
    rope = {"rope_type": "linear", "rope_theta": theta * factor, "factor": factor ** (2 / head_dim)}
    changed = transformers.GteConfig(**{**config, "model_type": "gte", "rope_parameters": rope})
    return transformers.GteModel.from_pretrained(path, config=changed, dtype=torch.float32).eval()


class JinaBert:
    """JinaBERT v2 by its paper and its tensors, without a line of ours: transformers has no port of it."""

    def __init__(self, config: dict[str, object], tensors: dict[str, Tensor]) -> None:
        self.config, self.tensors = config, tensors

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"))

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, self.config["layer_norm_eps"])

    def __call__(self, ids: list[int]) -> Tensor:
        heads = self.config["num_attention_heads"]
        words, types = (self.tensors[f"embeddings.{kind}_embeddings.weight"] for kind in ("word", "token_type"))
        x = self.norm(words[ids] + types[0], "embeddings.LayerNorm")
        for number in range(self.config["num_hidden_layers"]):
            x = self.layer(x, f"encoder.layer.{number}.", heads)
        return x

    def layer(self, x: Tensor, at: str, heads: int) -> Tensor:
        q, k, v = (
            self.linear(x, f"{at}attention.self.{part}").view(len(x), heads, -1).transpose(0, 1)
            for part in ("query", "key", "value")
        )
        places = torch.arange(len(x))
        slopes = torch.tensor([slope_of(head, heads) for head in range(heads)])
        bias = -(places[:, None] - places[None]).abs() * slopes[:, None, None]
        weights = (q @ k.mT / math.sqrt(q.shape[-1]) + bias).softmax(-1)
        mixed = (weights @ v).transpose(0, 1).flatten(1)
        x = self.norm(x + self.linear(mixed, f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
        gate, up = self.linear(x, f"{at}mlp.gated_layers").chunk(2, dim=-1)
        return self.norm(x + self.linear(F.gelu(gate) * up, f"{at}mlp.wo"), f"{at}mlp.layernorm")


def slope_of(head: int, heads: int) -> float:
    """Press et al. 2022; heads that are no power of 2 as in their code (ofirpress/attention_with_linear_biases)."""
    lower = 2 ** math.floor(math.log2(heads))
    if head < lower:
        return float(2 ** (-(2 ** -(math.log2(lower) - 3)))) ** (head + 1)
    return float(2 ** (-(2 ** -(math.log2(2 * lower) - 3)))) ** (2 * (head - lower) + 1)
