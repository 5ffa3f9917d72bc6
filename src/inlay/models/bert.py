"""BERT (Devlin et al. 2018) and RoBERTa / XLM-R, which differ in where positions begin.

Encoder layers, post-norm, every token sees every other of its sequence. The pooler and the masked-word
head that checkpoints may carry are not used for embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from inlay.models.forward import ForwardPass, LayerNorm, Linear, Table, require, require_divisor
from inlay.models.registry import family_of
from inlay.ops.attention import attention
from inlay.ops.layout import Layout

_TANH_GELU = partial(gelu, approximate="tanh")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_new": _TANH_GELU,
    "gelu_pytorch_tanh": _TANH_GELU,
    "relu": relu,
}


class Layer(nn.Module):
    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        width, inner, eps = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.head_dim = width // config["num_attention_heads"]
        self.activation = ACTIVATIONS[config.get("hidden_act", "gelu")]
        self.query = Linear(width, width, dtype, has_bias=True)
        self.key = Linear(width, width, dtype, has_bias=True)
        self.value = Linear(width, width, dtype, has_bias=True)
        self.mixed = Linear(width, width, dtype, has_bias=True)
        self.mixed_norm = LayerNorm(width, eps)
        self.up = Linear(width, inner, dtype, has_bias=True)
        self.down = Linear(inner, width, dtype, has_bias=True)
        self.down_norm = LayerNorm(width, eps)

    def forward(self, hidden: Tensor, layout: Layout) -> Tensor:
        x = hidden.to(self.query.weight.dtype)
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.query, self.key, self.value))
        mixed = self.mixed(attention(q, k, v, layout, is_causal=False).flatten(1))
        hidden = self.mixed_norm(hidden + mixed)
        normed: Tensor = self.down_norm(hidden + self.down(self.activation(self.up(hidden))))
        return normed


class Bert(ForwardPass):
    PREFIXES: ClassVar[tuple[str, ...]] = ("bert.", "roberta.")
    IGNORED: ClassVar[tuple[str, ...]] = ("pooler.", "embeddings.position_ids", "cls.", "lm_head.")
    RENAMES: ClassVar[Mapping[str, str]] = {
        "embeddings.LayerNorm.": "embeddings_norm.",
        "_embeddings.": "_table.",
        "embeddings.": "",
        "encoder.layer.": "layers.",
        "attention.self.": "",
        "attention.output.dense.": "mixed.",
        "attention.output.LayerNorm.": "mixed_norm.",
        "intermediate.dense.": "up.",
        "output.dense.": "down.",
        "output.LayerNorm.": "down_norm.",
        ".gamma": ".weight",
        ".beta": ".bias",
    }

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        require(config, "hidden_act", *ACTIVATIONS)
        require(config, "position_embedding_type", "absolute")
        require(config, "is_decoder", False)
        require_divisor(config, "num_attention_heads", "hidden_size")
        width = config["hidden_size"]
        self.first_position = first_position_of(config)
        self.word_table = Table(config["vocab_size"], width, dtype)
        self.position_table = Table(config["max_position_embeddings"], width, dtype)
        self.token_type_table = Table(config["type_vocab_size"], width, dtype)
        self.embeddings_norm = LayerNorm(width, config["layer_norm_eps"])
        self.layers = nn.ModuleList(Layer(config, dtype) for _ in range(config["num_hidden_layers"]))

    def forward(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        hidden: Tensor = self.word_table(ids) + self.position_table(positions + self.first_position)
        hidden = self.embeddings_norm(hidden + self.token_type_table.weight[0].float())  # [T, width]
        for layer in self.layers:
            hidden = layer(hidden, layout)
        return hidden


def first_position_of(config: Mapping[str, Any]) -> int:
    """RoBERTa's positions begin after the padding id; BERT's begin at 0."""
    is_offset = family_of(config["model_type"]).is_offset_by_padding
    return int(config.get("pad_token_id", 1)) + 1 if is_offset else 0
