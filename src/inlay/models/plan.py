"""What runs in one forward pass: packed rows, what comes before each sequence, and which rows are wanted in the end.

In: ids, positions and a layout, from whoever packs batches. A model file never asks about prefixes, pieces or
pooling: it looks up `ids` and `positions`, and has `attend` mix its values.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from inlay.models.adapter_rows import AdapterRows
from inlay.models.past import Past
from inlay.models.stream import Stream, Wanted
from inlay.ops.attention import attention
from inlay.ops.layout import Layout


@dataclass(frozen=True, slots=True)
class Plan:
    """One forward pass over a packed batch."""

    ids: Tensor  # [T]
    positions: Tensor  # [T], each sequence from 0
    layout: Layout
    is_causal: bool  # does a token see only those before it
    last_layer: int  # its number
    wanted: Wanted | None = None  # the one row of each sequence that is wanted, which sees all others; None: all
    past: Past | None = None  # what comes before the rows of each sequence
    types: Tensor | None = None  # [T], of the segments of pairs; None: all 0
    adapters: AdapterRows | None = None  # of rows that run with one

    def stream(self, hidden: Tensor) -> Stream:
        """The residual stream that begins with hidden states [T, width]."""
        return Stream(hidden, self.wanted)

    def attend(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        window: int | None = None,
        distance_bias: Tensor | None = None,
    ) -> Tensor:
        """Attention of a layer: q [T, heads, head_dim], k and v [T, kv_heads, head_dim] → [T, heads · head_dim].

        In the last layer only the wanted rows come out: [B, heads · head_dim]. `window` and `distance_bias` are those
        of `ops.attention`; no family that has them is told what comes before its rows.
        """
        only_wanted = layer == self.last_layer and self.wanted is not None
        if window is not None or distance_bias is not None:
            whole = (self.layout, self.layout)  # as rows count from their places
            mixed = attention(
                q, k, v, *whole, is_causal=self.is_causal, window=window, distance_bias=distance_bias
            ).flatten(1)
            return mixed if self.wanted is None or not only_wanted else mixed[self.wanted]
        keys, queries = self.layout, self.layout
        if self.past is not None:
            k, v, keys = self.past.join(layer, k, v, only_wanted=only_wanted)
        if self.wanted is not None and only_wanted:
            q = q[self.wanted]
            queries = Layout.of_one_row_each(len(q), q.device)
        return attention(q, k, v, queries, keys, is_causal=self.is_causal and not only_wanted).flatten(1)
