"""EmbeddingGemma (Vera et al. 2025): Gemma 3 that sees both ways, most layers within a window.

Each half of a layer has a norm before it and one behind it, before the sum. Weights of norms are stored less 1. The
words' rows are multiplied by √width, rounded to the dtype of the table, as transformers has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inlay.errors import ModelError
from inlay.models.forward import ForwardPass, MakeProduct, require, require_divisor
from inlay.models.parts import GatedProduct, Linear, Projection, RMSNorm, Table
from inlay.models.plan import Plan
from inlay.models.rotation import heads_of, layers_with_window, thetas_by_layer
from inlay.models.stream import Stream
from inlay.ops.activation import FUNCTIONS
from inlay.ops.linear import make_product
from inlay.ops.rotary import RotaryTable, rotate_heads


class Layer(nn.Module):
    def __init__(
        self, config: Mapping[str, Any], dtype: torch.dtype, number: int, rotary: RotaryTable, window: int | None
    ) -> None:
        super().__init__()
        width, inner, eps = config["hidden_size"], config["intermediate_size"], config["rms_norm_eps"]
        self.number = number
        self.rotary = rotary
        self.window = window
        self.heads = heads_of(config)
        heads, kv_heads, head_dim = self.heads
        self.q_proj = Linear(width, heads * head_dim, dtype, has_bias=False)
        self.k_proj = Linear(width, kv_heads * head_dim, dtype, has_bias=False)
        self.v_proj = Linear(width, kv_heads * head_dim, dtype, has_bias=False)
        self.o_proj = Linear(heads * head_dim, width, dtype, has_bias=False)
        self.gate_proj = Linear(width, inner, dtype, has_bias=False)
        self.up_proj = Linear(width, inner, dtype, has_bias=False)
        self.down_proj = Linear(inner, width, dtype, has_bias=False)
        self.qkv = Projection(self.q_proj, self.k_proj, self.v_proj)
        self.o = Projection(self.o_proj)
        self.gate_up = Projection(self.gate_proj, self.up_proj)
        self.down = Projection(self.down_proj)
        self.activation = GatedProduct(config["hidden_activation"], feeds=self.down)
        self.q_norm = RMSNorm(head_dim, eps)
        self.k_norm = RMSNorm(head_dim, eps)
        self.input_layernorm = RMSNorm(width, eps, feeds=self.qkv)
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.pre_feedforward_layernorm = RMSNorm(width, eps, feeds=self.gate_up)
        self.post_feedforward_layernorm = RMSNorm(width, eps)

    def forward(self, stream: Stream, plan: Plan) -> None:
        norms = (self.q_norm.weight, self.k_norm.weight)
        qkv = self.qkv(self.input_layernorm(stream))
        q, k, v = rotate_heads(qkv, self.heads, norms, self.q_norm.eps, self.rotary, plan.positions)
        mixed = self.o(plan.attend(self.number, q, k, v, window=self.window))
        stream.add(self.post_attention_layernorm.of(mixed))
        fed = self.down(self.activation(self.gate_up(self.pre_feedforward_layernorm(stream))))
        stream.add(self.post_feedforward_layernorm.of(fed))


class Gemma3(ForwardPass):
    WRAPPERS: ClassVar[tuple[str, ...]] = ("model.",)
    IGNORED: ClassVar[tuple[str, ...]] = ("lm_head.",)
    RENAMES: ClassVar[Mapping[str, str]] = {"self_attn.": "", "mlp.": ""}
    is_causal = False

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        _refuse_other_kinds(config)
        width, eps = config["hidden_size"], config["rms_norm_eps"]
        thetas = thetas_by_layer(config, "rope_theta", "rope_local_base_freq")
        shape = config["max_position_embeddings"], heads_of(config)[-1]
        full, local = (RotaryTable(*shape, theta) for theta in thetas)
        window = config["sliding_window"] // 2  # on either side: both count
        has_window = layers_with_window(config, config.get("sliding_window_pattern", 6), first=-1)
        self.scale = float(torch.tensor(width**0.5, dtype=dtype, device="cpu"))
        self.embed_tokens = Table(config["vocab_size"], width, dtype)
        self.layers = nn.ModuleList(
            Layer(config, dtype, number, local if is_local else full, window if is_local else None)
            for number, is_local in enumerate(has_window)
        )
        self.norm = RMSNorm(width, eps)

    def prepare(self, make: MakeProduct = lambda name, weights: make_product(weights)) -> None:
        for module in self.modules():
            if isinstance(module, RMSNorm):
                module.weight = nn.Parameter(1.0 + module.weight, requires_grad=False)
        super().prepare(make)

    def forward(self, plan: Plan) -> Tensor:
        stream = plan.stream(self.embed_tokens(plan.ids) * self.scale)
        for layer in self.layers:
            layer(stream, plan)
        hidden: Tensor = self.norm(stream).values
        return hidden


def _refuse_other_kinds(config: Mapping[str, Any]) -> None:
    require(config, "hidden_activation", *FUNCTIONS)
    require(config, "attention_bias", False)
    require(config, "attn_logit_softcapping", None)
    require_divisor(config, "num_key_value_heads", "num_attention_heads")
    if config.get("use_bidirectional_attention") is not True:
        raise ModelError("config.json: only a gemma3_text with use_bidirectional_attention is an embedding model")
    if config["query_pre_attn_scalar"] != heads_of(config)[-1]:
        raise ModelError(
            f"config.json: query_pre_attn_scalar={config['query_pre_attn_scalar']} is not supported (only head_dim is)"
        )
    if config["sliding_window"] % 2:
        raise ModelError(
            f"config.json: sliding_window={config['sliding_window']} was halved when the checkpoint was saved "
            "again, and nothing tells how often: write the publisher's number there (512 for EmbeddingGemma)"
        )
