"""ModernBERT (Warner et al. 2024): pre-norm layers with rotated heads and a gated GELU; most see a window only.

The first layer has no norm of its own, as that of the tables stands before it. No table of positions. The masked-word
head that checkpoints carry is not used for embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inlay.models.forward import ForwardPass, require, require_divisor
from inlay.models.parts import GatedProduct, LayerNorm, Linear, PreLayerNorm, Projection, Table
from inlay.models.plan import Plan
from inlay.models.rotation import encoder_heads_of, layers_with_window, thetas_by_layer
from inlay.models.stream import Stream
from inlay.ops.activation import FUNCTIONS
from inlay.ops.rotary import RotaryTable, rotate_heads
from inlay.ops.rows import Rows


class Layer(nn.Module):
    def __init__(
        self, config: Mapping[str, Any], dtype: torch.dtype, number: int, rotary: RotaryTable, window: int | None
    ) -> None:
        super().__init__()
        width, inner, eps = config["hidden_size"], config["intermediate_size"], config["norm_eps"]
        has_bias = bool(config.get("norm_bias"))
        self.number = number
        self.rotary = rotary
        self.window = window
        self.heads = encoder_heads_of(config)
        self.Wqkv = Linear(width, 3 * width, dtype, has_bias=bool(config.get("attention_bias")))
        self.Wo = Linear(width, width, dtype, has_bias=bool(config.get("attention_bias")))
        self.Wi = Linear(width, 2 * inner, dtype, has_bias=bool(config.get("mlp_bias")))
        self.down_proj = Linear(inner, width, dtype, has_bias=bool(config.get("mlp_bias")))
        self.qkv, self.mixed, self.gate_up, self.down = map(Projection, (self.Wqkv, self.Wo, self.Wi, self.down_proj))
        self.activation = GatedProduct(config["hidden_activation"], feeds=self.down)
        self.attn_norm = PreLayerNorm(width, eps, feeds=self.qkv, has_bias=has_bias) if number else None
        self.mlp_norm = PreLayerNorm(width, eps, feeds=self.gate_up, has_bias=has_bias)

    def forward(self, x: Rows, stream: Stream, plan: Plan) -> None:
        """x: what the first layer takes; the others take the stream."""
        if self.attn_norm is not None:
            x = self.attn_norm(stream)
        q, k, v = rotate_heads(self.qkv(x), self.heads, None, 0.0, self.rotary, plan.positions)
        stream.add(self.mixed(plan.attend(self.number, q, k, v, window=self.window)))
        stream.add(self.down(self.activation(self.gate_up(self.mlp_norm(stream)))))


class ModernBert(ForwardPass):
    WRAPPERS: ClassVar[tuple[str, ...]] = ("model.",)
    IGNORED: ClassVar[tuple[str, ...]] = ("head.", "decoder.", "classifier.")
    RENAMES: ClassVar[Mapping[str, str]] = {
        "embeddings.tok_embeddings.": "word_table.",
        "embeddings.norm.": "embeddings_norm.",
        "attn.Wqkv.": "Wqkv.",
        "attn.Wo.": "Wo.",
        "mlp.Wi.": "Wi.",
        "mlp.Wo.": "down_proj.",
    }
    is_causal = False

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        require(config, "hidden_activation", *FUNCTIONS)
        require(config, "is_causal", False)
        require_divisor(config, "num_attention_heads", "hidden_size")
        width, eps, has_bias = config["hidden_size"], config["norm_eps"], bool(config.get("norm_bias"))
        thetas = thetas_by_layer(config, "global_rope_theta", "local_rope_theta")
        shape = config["max_position_embeddings"], encoder_heads_of(config)[-1]
        full, local = (RotaryTable(*shape, theta) for theta in thetas)
        window = config["local_attention"] // 2  # on either side, as configs count both
        has_window = layers_with_window(config, config.get("global_attn_every_n_layers", 3), first=0)
        layers = [
            Layer(config, dtype, number, local if is_local else full, window if is_local else None)
            for number, is_local in enumerate(has_window)
        ]
        self.word_table = Table(config["vocab_size"], width, dtype)
        self.embeddings_norm = LayerNorm(width, eps, feeds=layers[0].qkv, has_bias=has_bias)
        self.layers = nn.ModuleList(layers)
        self.final_norm = PreLayerNorm(width, eps, has_bias=has_bias)

    def forward(self, plan: Plan) -> Tensor:
        stream = plan.stream(self.word_table(plan.ids))
        x = self.embeddings_norm(stream)
        for layer in self.layers:
            layer(x, stream, plan)
        hidden: Tensor = self.final_norm(stream).values
        return hidden
