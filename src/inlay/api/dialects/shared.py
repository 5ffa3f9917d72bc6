"""What several dialects have: inputs as texts or lists of ids, objects that hold a text, rows of a kind, and units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from inlay.errors import InvalidInput
from inlay.serving.output_dtypes import OutputDtype, convert_rows
from inlay.serving.shaping import to_base64_many
from inlay.types import FloatArray

UNIT_DOCUMENTS = 100  # that Cohere bills as one search


class TextObject(Struct):
    """What some send for a text."""

    text: str


def inputs_of(given: str | Sequence[str | int | list[int]], field: str = "input") -> list[str | list[int]]:
    """The inputs as a list of texts, or of lists of token ids."""
    if isinstance(given, str):
        return [given]
    ids = [value for value in given if isinstance(value, int)]
    inputs: list[str | list[int]] = [value for value in given if not isinstance(value, int)]
    if not ids:
        return inputs
    if inputs:
        place = next(i for i, value in enumerate(given) if isinstance(value, int))
        raise InvalidInput(f"{field}[{place}] must be a text, not a number", param=f"{field}[{place}]")
    return [ids]


def text_of(given: str | TextObject) -> str:
    return given if isinstance(given, str) else given.text


def texts_of(given: str | Sequence[str | TextObject]) -> list[str]:
    """One text, or several, some of which may be objects."""
    return [given] if isinstance(given, str) else [text_of(one) for one in given]


def rows_of(vectors: FloatArray, kind: str) -> Any:  # noqa: ANN401 - rows as orjson takes them
    """Vectors as an `OutputDtype`, or as `base64` of float32."""
    if kind == "base64":
        return [one.decode() for one in to_base64_many(vectors)]
    return convert_rows(vectors, OutputDtype(kind))


def search_units(num_documents: int) -> int:
    """What Cohere bills for a rerank."""
    return -(-num_documents // UNIT_DOCUMENTS)
