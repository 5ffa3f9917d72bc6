"""Alibaba's GTE (Zhang et al. 2024), "new" to its own code: post-norm layers with rotated heads, and a gated GELU.

Vendors' checkpoints of the type `new` and transformers' own of the type `gte` have the same tensors, and say in other
words how far the rotation is stretched. The heads that checkpoints carry besides are not used for embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from inlay.errors import ModelError
from inlay.models.encoder import PostNormEncoder
from inlay.models.forward import require, require_divisor
from inlay.models.parts import GatedProduct, LayerNorm, Linear, Projection, Table
from inlay.models.plan import Plan
from inlay.models.rotation import encoder_heads_of, theta_of
from inlay.models.stream import Stream
from inlay.ops.activation import FUNCTIONS
from inlay.ops.rotary import RotaryTable, rotate_heads
from inlay.ops.rows import Rows


class Layer(nn.Module):
    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype, number: int, rotary: RotaryTable) -> None:
        super().__init__()
        width, inner, eps = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.number = number
        self.rotary = rotary
        self.heads = encoder_heads_of(config)
        self.qkv_proj = Linear(width, 3 * width, dtype, has_bias=True)
        self.o_proj = Linear(width, width, dtype, has_bias=True)
        self.up_gate_proj = Linear(width, 2 * inner, dtype, has_bias=False)
        self.down_proj = Linear(inner, width, dtype, has_bias=True)
        self.qkv, self.mixed, self.up_gate, self.down = map(
            Projection, (self.qkv_proj, self.o_proj, self.up_gate_proj, self.down_proj)
        )
        self.activation = GatedProduct(config["hidden_act"], feeds=self.down, is_gate_first=False)
        self.mixed_norm = LayerNorm(width, eps, feeds=self.up_gate)
        self.down_norm = LayerNorm(width, eps)  # feeds the next layer

    def forward(self, x: Rows, stream: Stream, plan: Plan) -> Rows:
        q, k, v = rotate_heads(self.qkv(x), self.heads, None, 0.0, self.rotary, plan.positions)
        stream.add(self.mixed(plan.attend(self.number, q, k, v)))
        stream.add(self.down(self.activation(self.up_gate(self.mixed_norm(stream)))))
        normed: Rows = self.down_norm(stream)
        return normed


class Gte(PostNormEncoder):
    WRAPPERS: ClassVar[tuple[str, ...]] = ("new.", "gte.")
    IGNORED: ClassVar[tuple[str, ...]] = ("pooler.", "classifier.", "lm_head.", "embeddings.position_ids")
    RENAMES: ClassVar[Mapping[str, str]] = {
        "embeddings.LayerNorm.": "embeddings_norm.",
        "_embeddings.": "_table.",
        "embeddings.": "",
        "encoder.layer.": "layers.",
        "attention.qkv_proj.": "qkv_proj.",
        "attention.o_proj.": "o_proj.",
        "mlp.up_gate_proj.": "up_gate_proj.",
        "mlp.down_proj.": "down_proj.",
        "attn_ln.": "mixed_norm.",
        "mlp_ln.": "down_norm.",
    }

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        require(config, "hidden_act", *FUNCTIONS)
        require(config, "position_embedding_type", "rope")
        require(config, "layer_norm_type", "layer_norm")
        require(config, "pack_qkv", True)
        require(config, "logn_attention_scale", False)
        require_divisor(config, "num_attention_heads", "hidden_size")
        width, num_types = config["hidden_size"], config["type_vocab_size"]
        self.word_table = Table(config["vocab_size"], width, dtype)
        self.token_type_table = Table(num_types, width, dtype) if num_types else None
        head_dim = encoder_heads_of(config)[-1]
        rotary = RotaryTable(config["max_position_embeddings"], head_dim, *rotation_of(config, head_dim))
        layers = [Layer(config, dtype, number, rotary) for number in range(config["num_hidden_layers"])]
        self.join(LayerNorm(width, config["layer_norm_eps"]), layers)


def rotation_of(config: Mapping[str, Any], head_dim: int) -> tuple[float, float]:
    """θ, and by what angles are divided.

    The vendor's NTK applies at every length: frequencies (θ · f)^(−2i/d) / f^(2/d). transformers has the same as a
    linear factor f^(2/d) beside a θ that has f in it already.
    """
    scaling = config.get("rope_scaling") or {}
    if scaling.get("type") != "ntk":
        rope = config.get("rope_parameters") or scaling
        is_linear = "linear" in (rope.get("rope_type"), rope.get("type"))
        return theta_of(config, "linear"), float(rope["factor"]) if is_linear else 1.0
    factor = float(scaling.get("factor") or 0.0)
    if factor < 1 or scaling.get("mixed_b") is not None:
        raise ModelError(f"config.json: rope_scaling={scaling!r} is not supported")
    return float(config["rope_theta"]) * factor, factor ** (2 / head_dim)
