"""NomicBERT (Nussbaum et al. 2024): post-norm layers with rotated heads and a SwiGLU, and no biases but those of norms.

No table of positions. Newer revisions of its checkpoints have the usual words beside GPT-2's in config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from inlay.models.encoder import PostNormEncoder
from inlay.models.forward import require, require_divisor
from inlay.models.parts import GatedProduct, LayerNorm, Linear, Projection, Table
from inlay.models.plan import Plan
from inlay.models.rotation import encoder_heads_of, theta_of
from inlay.models.stream import Stream
from inlay.ops.rotary import RotaryTable, rotate_heads
from inlay.ops.rows import Rows


class Layer(nn.Module):
    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype, number: int, rotary: RotaryTable) -> None:
        super().__init__()
        width, inner, eps = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.number = number
        self.rotary = rotary
        self.heads = encoder_heads_of(config)
        self.Wqkv = Linear(width, 3 * width, dtype, has_bias=False)
        self.out_proj = Linear(width, width, dtype, has_bias=False)
        self.up_proj = Linear(width, inner, dtype, has_bias=False)
        self.gate_proj = Linear(width, inner, dtype, has_bias=False)
        self.down_proj = Linear(inner, width, dtype, has_bias=False)
        self.qkv = Projection(self.Wqkv)
        self.mixed = Projection(self.out_proj)
        self.gate_up = Projection(self.gate_proj, self.up_proj)
        self.down = Projection(self.down_proj)
        self.activation = GatedProduct("silu", feeds=self.down)
        self.mixed_norm = LayerNorm(width, eps, feeds=self.gate_up)
        self.down_norm = LayerNorm(width, eps)  # feeds the next layer

    def forward(self, x: Rows, stream: Stream, plan: Plan) -> Rows:
        q, k, v = rotate_heads(self.qkv(x), self.heads, None, 0.0, self.rotary, plan.positions)
        stream.add(self.mixed(plan.attend(self.number, q, k, v)))
        stream.add(self.down(self.activation(self.gate_up(self.mixed_norm(stream)))))
        normed: Rows = self.down_norm(stream)
        return normed


class NomicBert(PostNormEncoder):
    WRAPPERS: ClassVar[tuple[str, ...]] = ("nomic_bert.", "bert.")
    IGNORED: ClassVar[tuple[str, ...]] = ("pooler.", "cls.", "lm_head.", "embeddings.position_ids")
    RENAMES: ClassVar[Mapping[str, str]] = {
        "emb_ln.": "embeddings_norm.",
        "_embeddings.": "_table.",
        "embeddings.": "",
        "encoder.layers.": "layers.",
        "attn.Wqkv.": "Wqkv.",
        "attn.out_proj.": "out_proj.",
        "mlp.fc11.": "up_proj.",
        "mlp.fc12.": "gate_proj.",
        "mlp.fc2.": "down_proj.",
        "norm1.": "mixed_norm.",
        "norm2.": "down_norm.",
    }

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        _refuse_other_kinds(config)
        require_divisor(config, "num_attention_heads", "hidden_size")
        width, num_types = config["hidden_size"], config["type_vocab_size"]
        self.word_table = Table(config["vocab_size"], width, dtype)
        self.token_type_table = Table(num_types, width, dtype) if num_types else None
        head_dim = encoder_heads_of(config)[-1]
        rotary = RotaryTable(config["max_position_embeddings"], head_dim, theta_of(config, "dynamic"))
        layers = [Layer(config, dtype, number, rotary) for number in range(config["num_hidden_layers"])]
        self.join(LayerNorm(width, config["layer_norm_eps"]), layers)


def _refuse_other_kinds(config: Mapping[str, Any]) -> None:
    """What GPT-2's words may ask for besides; experts are those of v2-moe."""
    require(config, "hidden_act", "silu", "swiglu")
    require(config, "prenorm", False)
    require(config, "rotary_emb_fraction", 1, 1.0)
    require(config, "rotary_emb_interleaved", False)
    require(config, "rotary_emb_scale_base", None)
    require(config, "moe_every_n_layers", 0, -1)
    require(config, "num_experts", 0, 1)
    for word in ("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "use_rms_norm", "causal", "parallel_block"):
        require(config, word, False)
