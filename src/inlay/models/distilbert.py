"""DistilBERT (Sanh et al. 2019): BERT with half of its layers, without token types, under names of its own.

The masked-word head that checkpoints may carry is not used for embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from inlay.models.bert import Bert


class DistilBert(Bert):
    WRAPPERS: ClassVar[tuple[str, ...]] = ("distilbert.",)
    IGNORED: ClassVar[tuple[str, ...]] = ("vocab_", "embeddings.position_ids")
    RENAMES: ClassVar[Mapping[str, str]] = {
        "embeddings.LayerNorm.": "embeddings_norm.",
        "_embeddings.": "_table.",
        "embeddings.": "",
        "transformer.layer.": "layers.",
        "attention.q_lin.": "query.",
        "attention.k_lin.": "key.",
        "attention.v_lin.": "value.",
        "attention.out_lin.": "mixed_dense.",
        "sa_layer_norm.": "mixed_norm.",
        "ffn.lin1.": "up_dense.",
        "ffn.lin2.": "down_dense.",
        "output_layer_norm.": "down_norm.",
    }
