"""Qwen3 as an embedding model: decoder layers, causal, without a head (Qwen team 2025).

Each layer adds attention and a SwiGLU to the residual stream, which stays in float32: some channels
grow so large that half precision would lose what later layers add. What a layer adds last is added by the norm
that comes next. In the last layer only the pooled rows go on behind the keys and values.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from inlay.errors import ModelError
from inlay.models.forward import ForwardPass, Linear, Packed, Part, RMSNorm, Table, require, require_divisor
from inlay.models.lookback import EarlierPieces
from inlay.models.pieces import Deltas, PieceSizer
from inlay.ops.activation import silu_product
from inlay.ops.attention import attention
from inlay.ops.convert import converted
from inlay.ops.layout import Layout
from inlay.ops.rotary import RotaryTable, rotate_heads
from inlay.ops.rows import FULL, Form, Incoming, Rows


class Attention(Part):
    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.dtype = dtype
        self.head_dim = head_dim_of(config)
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        width, eps = config["hidden_size"], config["rms_norm_eps"]
        self.q_proj = Linear(width, self.heads * self.head_dim, dtype, has_bias=False)
        self.k_proj = Linear(width, self.kv_heads * self.head_dim, dtype, has_bias=False)
        self.v_proj = Linear(width, self.kv_heads * self.head_dim, dtype, has_bias=False)
        self.o_proj = Linear(self.heads * self.head_dim, width, dtype, has_bias=False)
        self.q_norm = RMSNorm(self.head_dim, eps)
        self.k_norm = RMSNorm(self.head_dim, eps)

    def shares(self) -> Mapping[str, tuple[Linear, ...]]:
        return {"qkv": (self.q_proj, self.k_proj, self.v_proj), "o": (self.o_proj,)}

    @property
    def takes(self) -> Form:
        return self.products["qkv"].takes

    def forward(self, x: Rows, tables: tuple[Tensor, Tensor], packed: Packed) -> Incoming:
        heads, norms = (self.heads, self.kv_heads, self.head_dim), (self.q_norm.weight, self.k_norm.weight)
        q, k, v = rotate_heads(self.products["qkv"](x), heads, norms, self.q_norm.eps, tables, packed.positions)
        k, v, keys = packed.keys(self.layer, k, v)
        mixed = attention(q, k, v, packed.layout, keys, is_causal=True)
        o = self.products["o"]
        return o(converted(mixed.flatten(1), o.takes))


class LastAttention(Attention):
    """Keys and values of every row, queries of the pooled rows alone."""

    def shares(self) -> Mapping[str, tuple[Linear, ...]]:
        return {"q": (self.q_proj,), "kv": (self.k_proj, self.v_proj), "o": (self.o_proj,)}

    @property
    def takes(self) -> Form:
        """Never bytes: the two products may want them multiplied differently."""
        return Form(self.dtype)

    def forward(self, x: Rows, tables: tuple[Tensor, Tensor], packed: Packed) -> Incoming:
        norms, eps = (self.q_norm.weight, self.k_norm.weight), self.q_norm.eps
        positions = packed.only_pooled(packed.positions)
        q_rows = self._project("q", packed.only_pooled_rows(x))
        q, _, _ = rotate_heads(q_rows, (self.heads, 0, self.head_dim), norms, eps, tables, positions)
        # A pooled row is the last of its sequence, so it sees every key.
        k, v, keys = self.remember(x, tables, packed)
        mixed = attention(q, k, v, packed.queries(), keys, is_causal=packed.pooled is None)
        o = self.products["o"]
        return o(converted(mixed.flatten(1), o.takes))

    def remember(self, x: Rows, tables: tuple[Tensor, Tensor], packed: Packed) -> tuple[Tensor, Tensor, Layout]:
        """Keys and values alone, with those before them."""
        heads, norms = (0, self.kv_heads, self.head_dim), (self.q_norm.weight, self.k_norm.weight)
        kv_rows = self._project("kv", x)
        _, k, v = rotate_heads(kv_rows, heads, norms, self.q_norm.eps, tables, packed.positions)
        return packed.keys(self.layer, k, v, only_pooled=packed.pooled is not None)

    def _project(self, name: str, x: Rows) -> Incoming:
        product = self.products[name]
        return product(converted(x.values, product.takes))


class MLP(Part):
    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        width, inner = config["hidden_size"], config["intermediate_size"]
        self.gate_proj = Linear(width, inner, dtype, has_bias=False)
        self.up_proj = Linear(width, inner, dtype, has_bias=False)
        self.down_proj = Linear(inner, width, dtype, has_bias=False)

    def shares(self) -> Mapping[str, tuple[Linear, ...]]:
        return {"gate_up": (self.gate_proj, self.up_proj), "down": (self.down_proj,)}

    @property
    def takes(self) -> Form:
        return self.products["gate_up"].takes

    def forward(self, x: Rows) -> Incoming:
        gate_up, down = self.products["gate_up"], self.products["down"]
        return down(silu_product(gate_up(x), down.takes))


class Layer(nn.Module):
    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype, number: int) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["rms_norm_eps"]
        self.is_last = number == config["num_hidden_layers"] - 1
        self.input_layernorm = RMSNorm(width, eps)
        self.self_attn = (LastAttention if self.is_last else Attention)(config, dtype, number)
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.mlp = MLP(config, dtype)

    def forward(
        self, hidden: Tensor, delta: Incoming | None, tables: tuple[Tensor, Tensor], packed: Packed
    ) -> tuple[Tensor, Incoming]:
        """hidden [T, width], less what the layer before has to add to it → the same of this layer."""
        x = self.input_layernorm(hidden, delta, self.self_attn.takes)
        mixed = self.self_attn(x, tables, packed)
        if self.is_last:
            hidden = packed.only_pooled(hidden)
        x = self.post_attention_layernorm(hidden, mixed, self.mlp.takes)
        return hidden, self.mlp(x)

    def remember(self, hidden: Tensor, delta: Incoming | None, tables: tuple[Tensor, Tensor], packed: Packed) -> None:
        """Of the last layer: only keys and values, for rows that no vector is made of."""
        last = cast(LastAttention, self.self_attn)
        last.remember(self.input_layernorm(hidden, delta, last.takes), tables, packed)


class Qwen3(ForwardPass):
    PREFIXES: ClassVar[tuple[str, ...]] = ("model.",)
    IGNORED: ClassVar[tuple[str, ...]] = ("lm_head.",)
    IS_CAUSAL: ClassVar[bool] = True

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
        self.layers = nn.ModuleList(Layer(config, dtype, number) for number in range(config["num_hidden_layers"]))
        self.norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.sizer = PieceSizer.of(config, head_dim_of(config))
        self.key_values: int = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim_of(config)

    def forward_in_pieces(self, ids: Tensor, positions: Tensor) -> Generator[None, None, Tensor]:
        """Layer by layer, and in each layer piece by piece, so that one layer's keys and values are kept at a time."""
        tables, length = self.rotary.on(ids.device), len(ids)
        hidden: Tensor = self.embed_tokens(ids)
        deltas, lookback = Deltas(length), EarlierPieces(length)
        *layers, last = cast("list[Layer]", list(self.layers))

        def piece(start: int, end: int, pooled: Tensor | None = None) -> tuple[Tensor, Rows | None, Packed]:
            layout = Layout.of(np.array([0, end - start], dtype=np.int64), ids.device)
            return hidden[start:end], deltas.of(start, end), Packed(positions[start:end], layout, pooled, lookback)

        for layer in layers:
            for start, end in self.sizer.spans(length):
                rows, delta, packed = piece(start, end)
                with self.sizer.timing(start, end):
                    deltas.put(start, end, layer(rows, delta, tables, packed)[1])
                yield
        for start, end in self.sizer.spans(length - 1):
            rows, delta, packed = piece(start, end)
            last.remember(rows, delta, tables, packed)  # not timed: it is not all that a layer does
            yield
        rows, delta, packed = piece(length - 1, length, torch.tensor([0], device=ids.device))
        return self._normed(*last(rows, delta, tables, packed))

    def _normed(self, hidden: Tensor, delta: Incoming | None) -> Tensor:
        normed: Rows = self.norm(hidden, delta, FULL)
        return normed.values

    def key_value_bytes(self, dtype: torch.dtype) -> int:
        size: int = self.key_values * dtype.itemsize
        return size

    def forward(self, ids: Tensor, packed: Packed) -> Tensor:
        tables = self.rotary.on(ids.device)
        hidden: Tensor = self.embed_tokens(ids)  # [T, width]
        delta: Incoming | None = None
        for layer in self.layers:
            hidden, delta = layer(hidden, delta, tables, packed)
        return self._normed(hidden, delta)


def head_dim_of(config: Mapping[str, Any]) -> int:
    """The width of a head: 128 in every Qwen3, whatever hidden_size / num_attention_heads is."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
