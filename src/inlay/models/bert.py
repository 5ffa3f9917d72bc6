"""BERT (Devlin et al. 2018) and RoBERTa / XLM-R, which differ in where positions begin.

Encoder layers, post-norm, every token sees every other of its sequence. The pooler and the masked-word
head that checkpoints may carry are not used for embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inlay.models.forward import ForwardPass, LayerNorm, Linear, Packed, Part, Table, require, require_divisor
from inlay.models.registry import family_of
from inlay.ops.activation import ACTIVATIONS, activate, finished
from inlay.ops.attention import attention
from inlay.ops.convert import converted
from inlay.ops.rows import FULL, Form, Rows


class Layer(Part):
    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        width, inner, eps = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.dtype = dtype
        self.heads = config["num_attention_heads"]
        self.function = config.get("hidden_act", "gelu")
        self.query = Linear(width, width, dtype, has_bias=True)
        self.key = Linear(width, width, dtype, has_bias=True)
        self.value = Linear(width, width, dtype, has_bias=True)
        self.mixed = Linear(width, width, dtype, has_bias=True)
        self.mixed_norm = LayerNorm(width, eps)
        self.up = Linear(width, inner, dtype, has_bias=True)
        self.down = Linear(inner, width, dtype, has_bias=True)
        self.down_norm = LayerNorm(width, eps)

    def shares(self) -> Mapping[str, tuple[Linear, ...]]:
        qkv = (self.query, self.key, self.value)
        return {"qkv": qkv, "mixed": (self.mixed,), "up": (self.up,), "down": (self.down,)}

    @property
    def takes(self) -> Form:
        return self.products["qkv"].takes

    def forward(
        self, hidden: Tensor, x: Rows, packed: Packed, following: Form, *, is_last: bool
    ) -> tuple[Tensor, Rows]:
        """hidden [T, width], and the same as the first product takes it → the same for the layer that follows."""
        mixed, up, down = self.products["mixed"], self.products["up"], self.products["down"]
        qkv = finished(self.products["qkv"](x), self.dtype)
        q, k, v = qkv.view(len(qkv), 3, self.heads, -1).unbind(1)
        queries = packed.layout
        if is_last:
            q, hidden, queries = packed.only_pooled(q), packed.only_pooled(hidden), packed.queries()
        seen = attention(q, k, v, queries, packed.layout, is_causal=False).flatten(1)
        x = self.mixed_norm(hidden, mixed(converted(seen, mixed.takes)), up.takes)
        inner = activate(up(x), self.function, down.takes)
        return hidden, self.down_norm(hidden, down(inner), following)


class Bert(ForwardPass):
    PREFIXES: ClassVar[tuple[str, ...]] = ("bert.", "roberta.")
    IS_CAUSAL: ClassVar[bool] = False
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

    def forward(self, ids: Tensor, packed: Packed) -> Tensor:
        hidden: Tensor = self.word_table(ids) + self.position_table(packed.positions + self.first_position)
        hidden += self.token_type_table.weight[0].float()  # [T, width]
        following = [*(layer.takes for layer in self.layers), FULL]
        x = self.embeddings_norm(hidden, None, following[0])
        for layer, to in zip(self.layers, following[1:], strict=True):
            hidden, x = layer(hidden, x, packed, to, is_last=layer is self.layers[-1])
        return hidden


def first_position_of(config: Mapping[str, Any]) -> int:
    """RoBERTa's positions begin after the padding id; BERT's begin at 0."""
    is_offset = family_of(config["model_type"]).is_offset_by_padding
    return int(config.get("pad_token_id", 1)) + 1 if is_offset else 0
