"""BERT (Devlin et al. 2018) and RoBERTa / XLM-R, which differ in where positions begin.

Encoder layers, post-norm, every token sees every other of its sequence. The pooler and the masked-word
head that checkpoints may carry are not used for embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inlay.models.distances import DistanceBias
from inlay.models.encoder import PostNormEncoder
from inlay.models.forward import require, require_divisor
from inlay.models.parts import Activation, LayerNorm, Linear, Projection, Table
from inlay.models.plan import Plan
from inlay.models.positions import first_position_of
from inlay.models.stream import Stream
from inlay.ops.activation import FUNCTIONS
from inlay.ops.embedding import look_up
from inlay.ops.rows import Rows


class Layer(nn.Module):
    def __init__(
        self, config: Mapping[str, Any], dtype: torch.dtype, number: int, distances: DistanceBias | None
    ) -> None:
        super().__init__()
        width, inner, eps = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.number = number
        self.distances = distances
        self.heads = config["num_attention_heads"]
        self.query = Linear(width, width, dtype, has_bias=True)
        self.key = Linear(width, width, dtype, has_bias=True)
        self.value = Linear(width, width, dtype, has_bias=True)
        self.mixed_dense = Linear(width, width, dtype, has_bias=True)
        self.up_dense = Linear(width, inner, dtype, has_bias=True)
        self.down_dense = Linear(inner, width, dtype, has_bias=True)
        self.qkv = Projection(self.query, self.key, self.value)
        self.mixed, self.up, self.down = map(Projection, (self.mixed_dense, self.up_dense, self.down_dense))
        self.activation = Activation(config.get("hidden_act", "gelu"), feeds=self.down)
        self.mixed_norm = LayerNorm(width, eps, feeds=self.up)
        self.down_norm = LayerNorm(width, eps)  # feeds the next layer

    def forward(self, x: Rows, stream: Stream, plan: Plan) -> Rows:
        """x: the stream as the first product takes it → the same for what comes next."""
        qkv = self.qkv.plain(x)
        q, k, v = qkv.view(len(qkv), 3, self.heads, -1).unbind(1)
        bias = None if self.distances is None else self.distances.on(q.device)
        stream.add(self.mixed(plan.attend(self.number, q, k, v, distance_bias=bias)))
        stream.add(self.down(self.activation(self.up(self.mixed_norm(stream)))))
        normed: Rows = self.down_norm(stream)
        return normed


class Bert(PostNormEncoder):
    WRAPPERS: ClassVar[tuple[str, ...]] = ("bert.", "roberta.")
    IGNORED: ClassVar[tuple[str, ...]] = ("pooler.", "embeddings.position_ids", "cls.", "lm_head.")
    RENAMES: ClassVar[Mapping[str, str]] = {
        "embeddings.LayerNorm.": "embeddings_norm.",
        "_embeddings.": "_table.",
        "embeddings.": "",
        "encoder.layer.": "layers.",
        "attention.self.": "",
        "attention.output.dense.": "mixed_dense.",
        "attention.output.LayerNorm.": "mixed_norm.",
        "intermediate.dense.": "up_dense.",
        "output.dense.": "down_dense.",
        "output.LayerNorm.": "down_norm.",
        ".gamma": ".weight",
        ".beta": ".bias",
    }

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        require(config, "hidden_act", *FUNCTIONS)
        require(config, "position_embedding_type", "absolute")
        require(config, "is_decoder", False)
        require_divisor(config, "num_attention_heads", "hidden_size")
        width = config["hidden_size"]
        self.first_position = first_position_of(config)
        self.word_table = Table(config["vocab_size"], width, dtype)
        self.position_table = Table(config["max_position_embeddings"], width, dtype)
        num_types = config["type_vocab_size"]
        self.token_type_table = Table(num_types, width, dtype) if num_types else None
        distances = self.make_distances(config)
        layers = [Layer(config, dtype, number, distances) for number in range(config["num_hidden_layers"])]
        self.join(LayerNorm(width, config["layer_norm_eps"]), layers)

    def make_distances(self, config: Mapping[str, Any]) -> DistanceBias | None:
        """What distances add to scores: nothing, but in MPNet."""
        return None

    def embed(self, plan: Plan) -> Tensor:
        positions = self.position_table.weight[self.first_position :]
        types = [] if self.token_type_table is None else [(self.token_type_table.weight, plan.types)]
        return look_up((self.word_table.weight, plan.ids), (positions, plan.positions), *types)
