"""Qwen3 as an embedding model: decoder layers, causal, without a head (Qwen team 2025).

Each layer adds attention and a SwiGLU to the residual stream, which stays in float32: some channels
grow so large that half precision would lose what later layers add.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from inlay.errors import ModelError
from inlay.models.forward import ForwardPass, Linear, RMSNorm, Table, require, require_divisor
from inlay.ops.attention import attention
from inlay.ops.layout import Layout
from inlay.ops.rotary import RotaryTable, rotate


class Attention(nn.Module):
    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        self.head_dim = head_dim_of(config)
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        width, eps = config["hidden_size"], config["rms_norm_eps"]
        self.q_proj = Linear(width, heads * self.head_dim, dtype, has_bias=False)
        self.k_proj = Linear(width, kv_heads * self.head_dim, dtype, has_bias=False)
        self.v_proj = Linear(width, kv_heads * self.head_dim, dtype, has_bias=False)
        self.o_proj = Linear(heads * self.head_dim, width, dtype, has_bias=False)
        self.q_norm = RMSNorm(self.head_dim, eps)
        self.k_norm = RMSNorm(self.head_dim, eps)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], layout: Layout) -> Tensor:
        x = x.to(self.q_proj.weight.dtype)
        q, k, v = (p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj))
        q = rotate(self.q_norm(q), *rotary).to(v.dtype)  # the norm comes before the rotation
        k = rotate(self.k_norm(k), *rotary).to(v.dtype)
        mixed: Tensor = self.o_proj(attention(q, k, v, layout, is_causal=True).flatten(1))
        return mixed


class MLP(nn.Module):
    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj = Linear(width, inner, dtype, has_bias=False)
        self.up_proj = Linear(width, inner, dtype, has_bias=False)
        self.down_proj = Linear(inner, width, dtype, has_bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.gate_proj.weight.dtype)
        down: Tensor = self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))
        return down


class Layer(nn.Module):
    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["rms_norm_eps"]
        self.input_layernorm = RMSNorm(width, eps)
        self.self_attn = Attention(config, dtype)
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.mlp = MLP(config, dtype)

    def forward(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], layout: Layout) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), rotary, layout)
        summed: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return summed


class Qwen3(ForwardPass):
    PREFIXES: ClassVar[tuple[str, ...]] = ("model.",)
    IGNORED: ClassVar[tuple[str, ...]] = ("lm_head.",)

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        require(config, "hidden_act", "silu")
        require(config, "attention_bias", False)
        require(config, "use_sliding_window", False)
        require_divisor(config, "num_key_value_heads", "num_attention_heads")
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        require(rope, "rope_type", "default")
        require(rope, "type", "default")
        theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
        if theta <= 0:
            raise ModelError(f"config.json: rope_theta must be positive, not {theta}")
        self.rotary = RotaryTable(config["max_position_embeddings"], head_dim_of(config), theta)
        self.embed_tokens = Table(config["vocab_size"], config["hidden_size"], dtype)
        self.layers = nn.ModuleList(Layer(config, dtype) for _ in range(config["num_hidden_layers"]))
        self.norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])

    def forward(self, ids: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        rotary = self.rotary.at(positions)
        hidden = self.embed_tokens(ids)  # [T, width]
        for layer in self.layers:
            hidden = layer(hidden, rotary, layout)
        normed: Tensor = self.norm(hidden)
        return normed


def head_dim_of(config: Mapping[str, Any]) -> int:
    """The width of a head: 128 in every Qwen3, whatever hidden_size / num_attention_heads is."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
