"""JinaBERT v2 (Günther et al. 2023): BERT without positions, whose scores fall with distance (ALiBi), and a gated GELU.

Its checkpoints call themselves `bert`; what tells them is `position_embedding_type`. Those for code have other tensors
and are refused by their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from inlay.models.distances import DistanceBias, alibi_bias
from inlay.models.encoder import PostNormEncoder
from inlay.models.forward import require, require_divisor
from inlay.models.parts import GatedProduct, LayerNorm, Linear, Projection, Table
from inlay.models.plan import Plan
from inlay.models.stream import Stream
from inlay.ops.rows import Rows

GATES = {"geglu": "gelu", "reglu": "relu"}  # by `feed_forward_type`


class Layer(nn.Module):
    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype, number: int, distances: DistanceBias) -> None:
        super().__init__()
        width, inner, eps = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.number = number
        self.distances = distances
        self.heads = config["num_attention_heads"]
        self.query = Linear(width, width, dtype, has_bias=True)
        self.key = Linear(width, width, dtype, has_bias=True)
        self.value = Linear(width, width, dtype, has_bias=True)
        self.mixed_dense = Linear(width, width, dtype, has_bias=True)
        self.gated_layers = Linear(width, 2 * inner, dtype, has_bias=False)
        self.wo = Linear(inner, width, dtype, has_bias=True)
        self.qkv = Projection(self.query, self.key, self.value)
        self.mixed, self.gate_up, self.down = map(Projection, (self.mixed_dense, self.gated_layers, self.wo))
        self.activation = GatedProduct(GATES[config["feed_forward_type"]], feeds=self.down)
        self.mixed_norm = LayerNorm(width, eps, feeds=self.gate_up)
        self.down_norm = LayerNorm(width, eps)  # feeds the next layer

    def forward(self, x: Rows, stream: Stream, plan: Plan) -> Rows:
        qkv = self.qkv.plain(x)
        q, k, v = qkv.view(len(qkv), 3, self.heads, -1).unbind(1)
        stream.add(self.mixed(plan.attend(self.number, q, k, v, distance_bias=self.distances.on(q.device))))
        stream.add(self.down(self.activation(self.gate_up(self.mixed_norm(stream)))))
        normed: Rows = self.down_norm(stream)
        return normed


class JinaBert(PostNormEncoder):
    WRAPPERS: ClassVar[tuple[str, ...]] = ("bert.",)
    IGNORED: ClassVar[tuple[str, ...]] = ("pooler.", "cls.", "embeddings.position_ids")
    RENAMES: ClassVar[Mapping[str, str]] = {
        "embeddings.LayerNorm.": "embeddings_norm.",
        "_embeddings.": "_table.",
        "embeddings.": "",
        "encoder.layer.": "layers.",
        "attention.self.": "",
        "attention.output.dense.": "mixed_dense.",
        "attention.output.LayerNorm.": "mixed_norm.",
        "mlp.gated_layers.": "gated_layers.",
        "mlp.wo.": "wo.",
        "mlp.layernorm.": "down_norm.",
    }

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        require(config, "feed_forward_type", *GATES)
        require_divisor(config, "num_attention_heads", "hidden_size")
        width, heads, longest = (
            config[word] for word in ("hidden_size", "num_attention_heads", "max_position_embeddings")
        )
        self.word_table = Table(config["vocab_size"], width, dtype)
        self.token_type_table = Table(config["type_vocab_size"], width, dtype)
        distances = DistanceBias(lambda device: alibi_bias(heads, longest, device))
        layers = [Layer(config, dtype, number, distances) for number in range(config["num_hidden_layers"])]
        self.join(LayerNorm(width, config["layer_norm_eps"]), layers)
