"""Qwen2 as an embedding model (gte-Qwen2-*-instruct, jina-code-embeddings): Qwen3 with biases in place of heads' norms.

Checkpoints whose config says `is_causal: false` see all of a sequence from every token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from inlay.models.qwen3 import Attention, Layer, Qwen3


class BiasedAttention(Attention):
    HAS_BIASES: ClassVar[bool] = True
    HAS_NORMS: ClassVar[bool] = False


class BiasedLayer(Layer):
    ATTENTION: ClassVar[type[Attention]] = BiasedAttention


class Qwen2(Qwen3):
    LAYER: ClassVar[type[Layer]] = BiasedLayer

    def __init__(self, config: Mapping[str, Any], dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        self.is_causal = config.get("is_causal") is not False
