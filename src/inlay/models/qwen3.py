"""Qwen3 as an embedding model: decoder layers, causal, without a head (Qwen team 2025).

Each layer adds attention and a SwiGLU to the residual stream, which stays in float32: some channels
grow so large that half precision would lose what later layers add.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from inlay.models.forward import Decoder, require, require_divisor
from inlay.models.parts import GatedProduct, Linear, Projection, RMSNorm, Table
from inlay.models.plan import Plan
from inlay.models.rotation import heads_of, theta_of
from inlay.models.stream import Stream
from inlay.ops.rotary import RotaryTable, rotate_heads
from inlay.ops.rows import Rows


class Attention(nn.Module):
    HAS_BIASES: ClassVar[bool] = False  # of queries, keys and values
    HAS_NORMS: ClassVar[bool] = True  # of the heads of queries and keys

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype, layer: int, rotary: RotaryTable) -> None:
        super().__init__()
        self.layer = layer
        self.rotary = rotary
        self.heads = heads_of(config)
        heads, kv_heads, head_dim = self.heads
        width = config["hidden_size"]
        self.q_proj = Linear(width, heads * head_dim, dtype, has_bias=self.HAS_BIASES)
        self.k_proj = Linear(width, kv_heads * head_dim, dtype, has_bias=self.HAS_BIASES)
        self.v_proj = Linear(width, kv_heads * head_dim, dtype, has_bias=self.HAS_BIASES)
        self.o_proj = Linear(heads * head_dim, width, dtype, has_bias=False)
        self.qkv = Projection(self.q_proj, self.k_proj, self.v_proj)
        self.o = Projection(self.o_proj)
        self.eps = config["rms_norm_eps"]
        self.q_norm = RMSNorm(head_dim, self.eps) if self.HAS_NORMS else None
        self.k_norm = RMSNorm(head_dim, self.eps) if self.HAS_NORMS else None

    def forward(self, x: Rows, plan: Plan) -> Rows:
        norms = None if self.q_norm is None or self.k_norm is None else (self.q_norm.weight, self.k_norm.weight)
        q, k, v = rotate_heads(self.qkv(x), self.heads, norms, self.eps, self.rotary, plan.positions)
        return self.o(plan.attend(self.layer, q, k, v))


class MLP(nn.Module):
    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj = Linear(width, inner, dtype, has_bias=False)
        self.up_proj = Linear(width, inner, dtype, has_bias=False)
        self.down_proj = Linear(inner, width, dtype, has_bias=False)
        self.gate_up = Projection(self.gate_proj, self.up_proj)
        self.down = Projection(self.down_proj)
        self.activation = GatedProduct("silu", feeds=self.down)

    def forward(self, x: Rows) -> Rows:
        return self.down(self.activation(self.gate_up(x)))


class Layer(nn.Module):
    ATTENTION: ClassVar[type[Attention]] = Attention

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype, number: int, rotary: RotaryTable) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["rms_norm_eps"]
        self.input_layernorm = RMSNorm(width, eps)
        self.self_attn = self.ATTENTION(config, dtype, number, rotary)
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.mlp = MLP(config, dtype)
        self.input_layernorm.feeds = self.self_attn.qkv
        self.post_attention_layernorm.feeds = self.mlp.gate_up

    def forward(self, stream: Stream, plan: Plan) -> None:
        stream.add(self.self_attn(self.input_layernorm(stream), plan))
        stream.add(self.mlp(self.post_attention_layernorm(stream)))


class Qwen3(Decoder):
    WRAPPERS: ClassVar[tuple[str, ...]] = ("model.",)
    IGNORED: ClassVar[tuple[str, ...]] = ("lm_head.",)
    LAYER: ClassVar[type[Layer]] = Layer

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        require(config, "hidden_act", "silu")
        require(config, "attention_bias", False)
        require(config, "use_sliding_window", False)
        require_divisor(config, "num_key_value_heads", "num_attention_heads")
        self.is_causal = config.get("is_causal") is not False  # checkpoints that see both ways say so
        self.heads = heads_of(config)
        rotary = RotaryTable(config["max_position_embeddings"], self.heads[-1], theta_of(config))
        layers = range(config["num_hidden_layers"])
        self.embed_tokens = Table(config["vocab_size"], config["hidden_size"], dtype)
        self.layers = nn.ModuleList(self.LAYER(config, dtype, number, rotary) for number in layers)
        self.norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
