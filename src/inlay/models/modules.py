"""Reads modules.json: the modules of sentence-transformers that a checkpoint is made of, and dense ones behind pooling.

In: a checkpoint's directory. Out: modules in their order. Those that Inlay does not have, and orders that it does not
run, are refused by name. Knows no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from inlay.errors import ModelError
from inlay.models.objects import read_object
from inlay.types import DenseLayer

TRANSFORMER, POOLING, DENSE, NORMALIZE = "Transformer", "Pooling", "Dense", "Normalize"
LOGIT_SCORE, STATIC = "LogitScore", "StaticEmbedding"
_ORDER = (TRANSFORMER, STATIC, POOLING, LOGIT_SCORE, DENSE, NORMALIZE)
_ACTIVATIONS = {"Identity": "none", "Tanh": "tanh"}  # of dense modules, by the last part of the class's name
_SENTENCE = "sentence_embedding"

Module = tuple[str, Path]  # its type, and its directory


def read_modules(path: Path) -> list[Module]:
    """From modules.json; empty for a plain transformers checkpoint."""
    file = path / "modules.json"
    if not file.exists():
        return []
    try:
        listed = msgspec.json.decode(file.read_bytes(), type=list[dict[str, Any]])
    except msgspec.DecodeError as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    modules = [(str(entry["type"]).rsplit(".", 1)[-1], path / str(entry.get("path", ""))) for entry in listed]
    kinds = [kind for kind, _ in modules]
    for kind in kinds:
        if kind not in _ORDER:
            raise ModelError(f"{file}: modules of type {kind!r} are not supported")
    if kinds != sorted(kinds, key=_ORDER.index):
        raise ModelError(f"{file}: modules in the order {', '.join(kinds)} are not supported")
    if repeated := sorted({kind for kind in kinds if kind != DENSE and kinds.count(kind) > 1}):
        raise ModelError(f"{file} has several modules of type {repeated[0]!r}")
    return modules


def read_dense_layers(modules: Sequence[Module], width: int) -> tuple[DenseLayer, ...]:
    """The dense modules behind pooling, which gives vectors of `width`."""
    layers: list[DenseLayer] = []
    for kind, path in modules:
        if kind == DENSE:
            layers.append(_read_dense(path, layers[-1].width_out if layers else width))
    return tuple(layers)


def _read_dense(path: Path, width_in: int) -> DenseLayer:
    file = path / "config.json"
    config = read_object(file)
    if not config:
        raise ModelError(f"{file} is missing: fetch the checkpoint again")
    if config.get("use_residual") or any(
        config.get(end, _SENTENCE) not in (_SENTENCE, None) for end in ("module_input_name", "module_output_name")
    ):
        raise ModelError(f"{file}: only dense modules from sentence embedding to sentence embedding are supported")
    if config["in_features"] != width_in:
        raise ModelError(f"{file}: in_features={config['in_features']}, and what comes before gives {width_in}")
    named = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = _ACTIVATIONS.get(named.rsplit(".", 1)[-1])
    if activation is None:
        raise ModelError(f"{file}: activation_function {named!r} is not supported (Identity or Tanh is)")
    return DenseLayer(path, width_in, int(config["out_features"]), bool(config.get("bias", True)), activation)
