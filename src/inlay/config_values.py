"""From values as they are given to `Settings`.

In: values by name, from wherever: of the right type, or as text. Out: one frozen `Settings`, or a `ConfigError` that
names what is wrong and where it was given.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, get_args

import msgspec

from inlay.config import OPTIONS, Settings, is_list, meta_of
from inlay.errors import ConfigError
from inlay.quantities import parse_size


def make_settings(values: Mapping[str, Any], sources: Mapping[str, str] | None = None) -> Settings:
    """Settings from checked and converted values; `sources` says how each was given, for the error."""
    converted = {}
    for name, value in values.items():
        source = (sources or {}).get(name, name)
        if name not in OPTIONS:
            raise ConfigError(f"{source}: there is no option {name!r}{nearest_option(name)}")
        converted[name] = _convert(name, value, source)
    return msgspec.convert(converted, Settings)


def _convert(name: str, value: object, source: str) -> object:
    field = OPTIONS[name]
    try:
        if (meta_of(name).extra or {})["unit"] == "bytes" and isinstance(value, str):
            value = parse_size(value)
        if is_list(name) and isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if is_list(name) and not value:
            raise ValueError("is empty: give a value, or take it out for the default")
        return msgspec.convert(value, field.type, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        default = getattr(Settings(), name)
        allowed = list(type(default)) if isinstance(default, StrEnum) else get_args(field.type.__origin__)
        choices = f"; use {', '.join(allowed)}" if allowed and all(isinstance(one, str) for one in allowed) else ""
        raise ConfigError(f"{source}: {error}{choices}") from error


def nearest_option(name: str, prefix: str = "") -> str:
    """For a message about a name that is none; empty where none is near."""
    near = difflib.get_close_matches(name, OPTIONS, n=1)
    if not near:
        return ""
    return f"; did you mean {prefix + near[0].upper() if prefix else near[0]}?"
