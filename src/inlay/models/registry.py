"""The model families, one row each: the forward pass as an import string, and what checkpoints leave unsaid.

The key is the `model_type` of config.json. Variants that differ only in facts share a forward pass.
Knows no torch until `forward_class` is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from inlay.errors import ModelError
from inlay.types import Pooling

if TYPE_CHECKING:
    from inlay.models.forward import ForwardPass

QWEN3_TASK = "Given a web search query, retrieve relevant passages that answer the query"
QWEN3_TEMPLATE = "Instruct: {instruction}\nQuery:"


@dataclass(frozen=True, slots=True)
class Family:
    """What is true of every checkpoint of a family unless its own files say otherwise."""

    forward: str  # "module:class"
    forward_version: int  # raise when a change to the code changes the vectors
    pooling: Pooling
    is_offset_by_padding: bool = False  # positions start at pad_token_id + 1
    query_prompt: str | None = None
    instruction_template: str | None = None
    smallest_dimension: int | None = None  # trained with Matryoshka down to here


_ROBERTA = Family("inlay.models.bert:Bert", 3, Pooling.MEAN, is_offset_by_padding=True)

FAMILIES = {
    "qwen3": Family(
        "inlay.models.qwen3:Qwen3",
        3,
        Pooling.LAST,
        query_prompt=QWEN3_TEMPLATE.format(instruction=QWEN3_TASK),
        instruction_template=QWEN3_TEMPLATE,
        smallest_dimension=32,
    ),
    "bert": Family("inlay.models.bert:Bert", 3, Pooling.MEAN),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
}


def family_of(model_type: str) -> Family:
    """The row of a `model_type`; `ModelError` lists the known ones."""
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ModelError(
            f"models of type {model_type!r} are not supported; Inlay serves: {known}. "
            "docs/models.md tells how to add a family."
        )
    return FAMILIES[model_type]


def forward_class(model_type: str) -> type[ForwardPass]:
    """Import the forward pass of a family; this is where torch gets loaded."""
    module, name = family_of(model_type).forward.split(":")
    loaded: type[ForwardPass] = getattr(import_module(module), name)
    return loaded
