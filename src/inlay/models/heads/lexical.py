"""The sparse output of BGE-M3: a weight for each token that a text has, by its id.

w = relu(Linear(hidden)) of each token; of equal ids the largest counts; special tokens, unknown ones and weights of 0
go (FlagEmbedding, BGEM3Model and its `_process_token_weights`). Its payload is pairs of id and weight, by id. All in
float32, and never a row as wide as the vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inlay.models.heads.head import Head
from inlay.models.heads.linear_file import read_linear
from inlay.models.objects import read_object
from inlay.ops.layout import Layout
from inlay.ops.linear import Product, make_product
from inlay.ops.rows import Rows
from inlay.types import SPARSE, SPARSE_ROW, IntArray, ModelSpec

_UNUSED = {"cls_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}  # XLM-R's, if unsaid


class LexicalHead(Head):
    needs_all_rows = True

    def __init__(self, spec: ModelSpec) -> None:
        self._file = spec.head_files[SPARSE]
        self._width = spec.width
        self._unused = _unused_ids(spec.path)
        self._product: Product | None = None

    def load(self, files: list[Path], device: torch.device) -> None:
        self._product = make_product(read_linear(self._file, (1, self._width), device))

    def __call__(self, hidden: Tensor, layout: Layout) -> Tensor:
        """hidden [T, width] → weights [T]."""
        if self._product is None:
            raise RuntimeError("the head was not loaded")
        return torch.relu(self._product(Rows(hidden)).full()).flatten()

    def payloads(self, array: npt.NDArray[Any], layout: Layout, ids: IntArray) -> list[bytes | None]:
        pairs = zip(layout.offsets, layout.offsets[1:], strict=False)
        return [self._payload(array[start:end], ids[start:end]) for start, end in pairs]

    def _payload(self, weights: npt.NDArray[Any], ids: IntArray) -> bytes | None:
        if not np.isfinite(weights).all():
            return None
        used = (weights > 0) & ~np.isin(ids, self._unused)
        found, places = np.unique(ids[used], return_inverse=True)
        largest = np.zeros(len(found), dtype=np.float32)
        np.maximum.at(largest, places, weights[used])
        rows = np.empty(len(found), dtype=SPARSE_ROW)
        rows["id"], rows["weight"] = found, largest
        return rows.tobytes()


def _unused_ids(path: Path) -> IntArray:
    """Ids of the tokens that say nothing of a text."""
    said = {**read_object(path / "tokenizer_config.json"), **read_object(path / "special_tokens_map.json")}
    named = [said.get(role, unsaid) for role, unsaid in _UNUSED.items()]
    texts = {token["content"] if isinstance(token, dict) else token for token in named}
    added = read_object(path / "tokenizer.json").get("added_tokens") or []
    return np.array([token["id"] for token in added if token["content"] in texts], dtype=np.int64)
