"""Tells static embeddings, a row for each token and no layers, and says of them what a config.json would.

In: a checkpoint's files. Out: where its table and tokenizer lie, and a config in the usual words, whose sizes are those
of the table; None for any other model. Two layouts: a StaticEmbedding module of sentence-transformers, which has no
config.json, and Model2Vec, whose config.json may say no type. Knows no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from inlay.errors import ModelError
from inlay.models.modules import NORMALIZE, STATIC, Module
from inlay.models.objects import read_object

FAMILY, MODEL2VEC = "static", "model2vec"
TABLE, TABLE_OF_MODEL2VEC, WEIGHTS, MAPPING = "embedding.weight", "embeddings", "weights", "mapping"
FILE = "model.safetensors"
MODEL2VEC_TOKENS = 512  # that its own library reads of a text, unless the config says otherwise (0.10)
MOST_TOKENS = 1 << 17  # of other static models, which have no limit of their own
_LONGEST_HEADER = 1 << 20

Shapes = dict[str, list[int]]


def read_static(path: Path, config: Mapping[str, Any], modules: Sequence[Module]) -> tuple[Path, dict[str, Any]] | None:
    """The directory and the config of a static model."""
    place = dict(modules).get(STATIC)
    may_be_model2vec = config.get("model_type", MODEL2VEC) == MODEL2VEC and (place is None or config)
    if may_be_model2vec and (path / FILE).exists():
        header = _read_header(path / FILE)
        if TABLE_OF_MODEL2VEC in header:
            return path, _of_model2vec(config, header)
    if place is None:
        return None
    if not (place / FILE).exists():
        raise ModelError(f"{place} has no {FILE}: fetch the checkpoint again")
    header = _read_header(place / FILE)
    table = next((name for name in (TABLE, TABLE_OF_MODEL2VEC) if name in header), None)
    if table is None:
        raise ModelError(f"{place / FILE} has no tensor {TABLE!r}")
    rows, width = _shape(header, table)
    cut = read_object(place / "tokenizer.json").get("truncation") or {}  # sentence-transformers cuts by it
    most, is_unit = int(cut.get("max_length", MOST_TOKENS)), NORMALIZE in dict(modules)
    return place, _config(rows, rows, width, header[table]["dtype"], max_tokens=most, normalize=is_unit)


def _of_model2vec(config: Mapping[str, Any], header: Mapping[str, Any]) -> dict[str, Any]:
    rows, width = _shape(header, TABLE_OF_MODEL2VEC)
    of_tokens = [_shape(header, name)[0] for name in (MAPPING, WEIGHTS) if name in header]
    ids = of_tokens[0] if of_tokens else rows
    given = config.get("max_length", MODEL2VEC_TOKENS)
    made = _config(
        ids,
        rows,
        width,
        header[TABLE_OF_MODEL2VEC]["dtype"],
        max_tokens=MOST_TOKENS if given is None else int(given),
        normalize=bool(config.get("normalize")),
    )
    return {**made, "has_weights": WEIGHTS in header, "has_mapping": MAPPING in header, "leaves_out_unknown": True}


def _config(ids: int, rows: int, width: int, dtype: str, *, max_tokens: int, normalize: bool) -> dict[str, Any]:
    return {
        "model_type": FAMILY,
        "hidden_size": width,
        "vocab_size": ids,
        "rows": rows,
        "table_dtype": dtype,
        "max_position_embeddings": max_tokens,
        "normalize": normalize,
    }


def _shape(header: Mapping[str, Any], name: str) -> list[int]:
    return [int(size) for size in header[name]["shape"]]


def _read_header(file: Path) -> dict[str, Any]:
    """Names, dtypes and shapes of the tensors in a safetensors file, without reading them."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        try:
            header = msgspec.json.decode(opened.read(min(length, _LONGEST_HEADER)), type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise ModelError(f"{file} cannot be read ({error}): fetch it again") from error
    return header
