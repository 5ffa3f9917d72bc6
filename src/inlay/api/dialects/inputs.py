"""What dialects have in common when they read a body: inputs as texts or lists of ids, and objects that hold a text."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from inlay.errors import InvalidInput


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
