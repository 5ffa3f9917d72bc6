"""Static embeddings (StaticEmbedding of sentence-transformers, Model2Vec): a row for each token, and nothing more.

Pooling takes the mean of the rows. Model2Vec may share rows between tokens, and weigh them. The table is float32
whatever the dtype: there are no products, and rounding would gain nothing. A table of int8 counts as it is, without a
scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from inlay.models.forward import ForwardPass
from inlay.models.parts import Table
from inlay.models.plan import Plan

INT8 = "I8"  # in the words of safetensors


class Static(ForwardPass):
    RENAMES: ClassVar[Mapping[str, str]] = {"embedding.weight": "table.weight", "embeddings": "table.weight"}
    is_causal = False

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        self.table = Table(
            config["rows"], config["hidden_size"], torch.int8 if config["table_dtype"] == INT8 else torch.float32
        )
        ids = config["vocab_size"]
        self.weights: nn.Parameter | None = None
        self.mapping: nn.Parameter | None = None
        if config.get("has_weights"):
            self.weights = nn.Parameter(torch.empty(ids, dtype=torch.float32), requires_grad=False)
        if config.get("has_mapping"):
            self.mapping = nn.Parameter(torch.empty(ids, dtype=torch.int64), requires_grad=False)

    def forward(self, plan: Plan) -> Tensor:
        rows = plan.ids if self.mapping is None else self.mapping[plan.ids]
        hidden: Tensor = self.table(rows)
        return hidden if self.weights is None else hidden * self.weights[plan.ids][:, None]
