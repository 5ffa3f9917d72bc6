"""MPNet (Song et al. 2020): BERT without token types, whose scores depend on distances besides.

One row a bucket of distances serves all layers. Positions begin at 2, whatever the padding id is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from inlay.models.bert import Bert
from inlay.models.distances import BUCKETS, DistanceBias, bucket_bias
from inlay.models.forward import require


class MPNet(Bert):
    WRAPPERS: ClassVar[tuple[str, ...]] = ("mpnet.",)
    IGNORED: ClassVar[tuple[str, ...]] = ("pooler.", "embeddings.position_ids", "lm_head.")
    RENAMES: ClassVar[Mapping[str, str]] = {
        "embeddings.LayerNorm.": "embeddings_norm.",
        "_embeddings.": "_table.",
        "embeddings.": "",
        "encoder.layer.": "layers.",
        "encoder.relative_attention_bias.weight": "distance_rows",
        "attention.attn.q.": "query.",
        "attention.attn.k.": "key.",
        "attention.attn.v.": "value.",
        "attention.attn.o.": "mixed_dense.",
        "attention.LayerNorm.": "mixed_norm.",
        "intermediate.dense.": "up_dense.",
        "output.dense.": "down_dense.",
        "output.LayerNorm.": "down_norm.",
    }

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        require(config, "relative_attention_num_buckets", BUCKETS)
        rows = torch.empty(BUCKETS, config["num_attention_heads"], dtype=torch.float32)
        self.distance_rows = nn.Parameter(rows, requires_grad=False)

    def make_distances(self, config: Mapping[str, Any]) -> DistanceBias:
        longest = config["max_position_embeddings"]
        return DistanceBias(lambda device: bucket_bias(self.distance_rows.to(device), longest))
