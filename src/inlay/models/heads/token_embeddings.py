"""The hidden states themselves: a row for each token of a sequence, special ones included.

What sentence-transformers calls token embeddings: before pooling, and before any dense module of the checkpoint. Its
payload is float32[tokens, hidden width], before cut and normalisation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from inlay.models.heads.head import Head
from inlay.ops.layout import Layout
from inlay.types import IntArray, ModelSpec


class TokenEmbeddingsHead(Head):
    needs_all_rows = True

    def __init__(self, spec: ModelSpec) -> None:
        """There is nothing to know."""

    def __call__(self, hidden: Tensor, layout: Layout) -> Tensor:
        return hidden

    def payloads(self, array: npt.NDArray[Any], layout: Layout, ids: IntArray) -> list[bytes | None]:
        rows = (array[start:end] for start, end in zip(layout.offsets, layout.offsets[1:], strict=False))
        return [own.tobytes() if np.isfinite(own).all() else None for own in rows]
