"""The model families and the kinds of output, one row each: the code as an import string, and what files leave unsaid.

The key of a family is the `model_type` of config.json. Variants that differ only in facts share a forward pass.
Knows no torch until `forward_class` or `make_head` is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from inlay.errors import ModelError
from inlay.types import DENSE, ModelSpec, Pooling

if TYPE_CHECKING:
    from inlay.models.forward import ForwardPass
    from inlay.models.heads.head import Head

QWEN3_TASK = "Given a web search query, retrieve relevant passages that answer the query"
QWEN3_TEMPLATE = "Instruct: {instruction}\nQuery:"


@dataclass(frozen=True, slots=True)
class Family:
    """What is true of every checkpoint of a family unless its own files say otherwise."""

    forward: str  # "module:class"
    forward_version: int  # raise when a change to the code changes the vectors
    pooling: Pooling
    query_prompt: str | None = None
    instruction_template: str | None = None
    smallest_dimension: int | None = None  # trained with Matryoshka down to here
    outputs: tuple[str, ...] = (DENSE,)  # the kinds that its heads give, see `OUTPUTS`


@dataclass(frozen=True, slots=True)
class OutputKind:
    """One kind of output: what makes it, and how long its canonical payload may be."""

    head: str  # "module:class"
    is_length: Callable[[int, ModelSpec], bool]  # bytes of a payload → may a model give so many


OUTPUTS = {
    DENSE: OutputKind("inlay.models.heads.dense:DenseHead", lambda num_bytes, spec: num_bytes == spec.width * 4),
}


_ROBERTA = Family("inlay.models.bert:Bert", 3, Pooling.MEAN)

FAMILIES = {
    "qwen3": Family(
        "inlay.models.qwen3:Qwen3",
        4,
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
    loaded: type[ForwardPass] = _load(family_of(model_type).forward)
    return loaded


def make_head(kind: str, spec: ModelSpec) -> Head:
    """The head of a model that gives a kind of output."""
    head: Head = _load(OUTPUTS[kind].head)(spec)
    return head


def _load(place: str) -> Any:  # noqa: ANN401 - a class by its "module:class"
    module, name = place.split(":")
    return getattr(import_module(module), name)
