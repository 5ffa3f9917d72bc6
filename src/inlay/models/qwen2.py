"""Qwen2 as an embedding model (gte-Qwen2-*-instruct, jina-code-embeddings): Qwen3 with biases, not norms, of heads."""

from __future__ import annotations

from typing import ClassVar

from inlay.models.qwen3 import Attention, Layer, Qwen3


class BiasedAttention(Attention):
    HAS_BIASES: ClassVar[bool] = True
    HAS_NORMS: ClassVar[bool] = False


class BiasedLayer(Layer):
    ATTENTION: ClassVar[type[Attention]] = BiasedAttention


class Qwen2(Qwen3):
    LAYER: ClassVar[type[Layer]] = BiasedLayer
