"""What BERT and its relatives share: post-norm layers, one after the other, over one residual stream.

In: the sum of what tables say of each token, and layers. Out: hidden states. A family says what a layer is, and what
stands in its tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from inlay.models.forward import ForwardPass, require
from inlay.models.parts import LayerNorm, Projection, Table
from inlay.models.plan import Plan
from inlay.models.stream import Stream
from inlay.ops.embedding import look_up
from inlay.ops.rows import Rows


class PostNormLayer(Protocol):
    """A layer that takes the stream as its first product wants it, and gives it so to the next."""

    qkv: Projection
    down_norm: LayerNorm  # its last step

    def __call__(self, x: Rows, stream: Stream, plan: Plan) -> Rows: ...


class PostNormEncoder(ForwardPass):
    """`embed`, a norm, then layers `x = layer(x, stream, plan)`. Every token sees every other of its sequence."""

    is_causal = False
    word_table: Table
    token_type_table: Table | None
    embeddings_norm: LayerNorm
    layers: nn.ModuleList

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        require(config, "is_causal", False)

    def join(self, norm: LayerNorm, layers: Sequence[PostNormLayer]) -> None:
        """Take the norm and the layers, each of which feeds the next. Called once, when they are made."""
        self.embeddings_norm = norm
        for before, layer in zip([norm, *(layer.down_norm for layer in layers)], layers, strict=False):
            before.feeds = layer.qkv
        self.layers = nn.ModuleList(layers)  # type: ignore[arg-type]

    def embed(self, plan: Plan) -> Tensor:
        """[T, width] in float32, before the first norm: words and types, where a family has no table of positions."""
        types = [] if self.token_type_table is None else [(self.token_type_table.weight, plan.types)]
        return look_up((self.word_table.weight, plan.ids), *types)

    def forward(self, plan: Plan) -> Tensor:
        stream = plan.stream(self.embed(plan))
        x = self.embeddings_norm(stream)
        for layer in self.layers:
            x = layer(x, stream, plan)
        return stream.hidden
