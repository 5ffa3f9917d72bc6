"""From the bytes of a body to the struct of a dialect, or to an error that names the field at fault.

A struct that forbids unknown fields has them refused; of any other they are ignored, and told of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from inlay.errors import InvalidInput, RequestError, TooLarge

C = TypeVar("C", bound=msgspec.Struct)

LARGE_BODY = 1 << 20  # bytes, from which on values are counted before they are decoded
MOST_VALUES = 1 << 20
LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# A string that is never closed goes to the end, so that nothing is looked at twice.
_STRING_OR_COMMA = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|,', re.DOTALL)
_PATH = re.compile(r" - at `\$\.?(.*)`$")
_UNKNOWN = "Object contains unknown field"


class BodyDecoder(Generic[C]):
    """Decodes bodies into one struct."""

    def __init__(self, schema: type[C]) -> None:
        self._schema = schema
        self._choices = dict(_choices_of(schema))
        self._decoder = msgspec.json.Decoder(schema)
        self._forbids_unknown = schema.__struct_config__.forbid_unknown_fields
        # Most bodies have no unknown field, and are then decoded once.
        strict = msgspec.defstruct(schema.__name__, [], bases=(schema,), forbid_unknown_fields=True)
        self._strict: msgspec.json.Decoder[C] = msgspec.json.Decoder(strict)

    def decode(self, body: bytes | bytearray) -> tuple[C, bool]:
        """The struct, and whether fields were ignored that it does not know."""
        _check_values(body)
        try:
            return self._decode(body)
        except msgspec.ValidationError as error:
            raise self._wrong_field(str(error)) from error
        except (ValueError, RecursionError) as error:  # msgspec's and json's errors are ValueErrors
            raise RequestError(f"the body is not valid JSON: {error}") from error

    def _decode(self, body: bytes | bytearray) -> tuple[C, bool]:
        try:
            return self._strict.decode(body), False
        except msgspec.ValidationError as error:
            if self._forbids_unknown or not str(error).startswith(_UNKNOWN):
                raise
        except msgspec.DecodeError as error:
            return self._decode_surrogates(body, error)
        try:
            return self._decoder.decode(body), True
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError as error:
            return self._decode_surrogates(body, error)

    def _decode_surrogates(self, body: bytes | bytearray, error: msgspec.DecodeError) -> tuple[C, bool]:
        """The standard library reads half a surrogate pair, and then the input with it can be named."""
        if LONE_SURROGATE.search(body) is None:
            raise error
        values = _named(json.loads(body))
        call = msgspec.convert(values, self._schema)
        return call, bool(values.keys() - set(self._schema.__struct_fields__))

    def _wrong_field(self, message: str) -> InvalidInput:
        """msgspec's message, with the place taken out of it and put first."""
        found = _PATH.search(message)
        if found is None or not found[1]:
            named = re.search(r"(?:required|unknown) field `(\w+)`", message)
            return InvalidInput(f"the body is invalid: {message}", param=named[1] if named else None)
        place = found[1]
        reason = message[: found.start()]
        if place in self._choices and reason.startswith("Invalid enum value"):
            reason += f"; use {', '.join(self._choices[place])}"
        return InvalidInput(f"{place} is invalid: {reason}", param=place)


class FieldReader:
    """Finds a few fields of a body, with what they hold still to be decoded; it keeps nothing of the others."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        fields = [(name, msgspec.Raw, msgspec.Raw()) for name in sorted(names)]
        self._decoder = msgspec.json.Decoder(msgspec.defstruct("Fields", fields))

    def read(self, body: bytes | bytearray) -> dict[str, msgspec.Raw]:
        """Those that are there; none where the body is no object."""
        try:
            found = self._decoder.decode(body)
        except (ValueError, RecursionError):
            return self._read_surrogates(body)
        given = {name: getattr(found, name) for name in self._names}
        return {name: raw for name, raw in given.items() if bytes(raw)}

    def _read_surrogates(self, body: bytes | bytearray) -> dict[str, msgspec.Raw]:
        """As the decoder of a body does."""
        try:
            values = json.loads(body) if LONE_SURROGATE.search(body) is not None else None
        except (ValueError, RecursionError):
            return {}
        if not isinstance(values, dict):
            return {}
        return {name: msgspec.Raw(json.dumps(values[name]).encode()) for name in self._names if name in values}


def _named(values: Any) -> Any:  # noqa: ANN401 - any JSON
    """The same without names that no struct can have."""
    if not isinstance(values, dict):
        return values
    return {name.encode("utf-8", "backslashreplace").decode(): value for name, value in values.items()}


def _choices_of(schema: type[msgspec.Struct]) -> Iterator[tuple[str, list[str]]]:
    """The fields that take one of a few texts, with these in the order of their declaration."""
    for name, annotation in get_type_hints(schema).items():
        if texts := list(_literals_of(annotation)):
            yield name, texts


def _literals_of(annotation: Any) -> Iterator[str]:  # noqa: ANN401 - what a type is to `typing`
    for part in get_args(annotation):
        if get_origin(annotation) is Literal:
            yield str(part)
        elif isinstance(part, type) and issubclass(part, StrEnum):
            yield from part
        else:
            yield from _literals_of(part)


def _check_values(body: bytes | bytearray) -> None:
    """Refuse a large body of very many values before they are decoded: each takes many times its bytes in memory."""
    if len(body) <= LARGE_BODY or body.count(b",") <= MOST_VALUES:
        return
    number = 0
    for found in _STRING_OR_COMMA.finditer(body):
        number += found.end() - found.start() == 1
        if number > MOST_VALUES:
            raise TooLarge(f"the body has over {MOST_VALUES} values: send fewer inputs at a time")
