"""Turns the fields of `Settings` into the flags of a verb, so that nothing is said twice."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Optional, get_args

import typer

from inlay.config import ENV_PREFIX, OPTIONS, Settings, flag_of, is_list, meta_of
from inlay.config_sources import load_settings

Verb = Callable[..., None]


def with_settings(verb: str) -> Callable[[Verb], Verb]:
    """Give a verb the flags of its options; it is called with the merged `settings` instead of them."""
    names = [name for name in OPTIONS if verb in (meta_of(name).extra or {})["verbs"]]
    flags = [_parameter(name) for name in names]

    def decorate(function: Verb) -> Verb:
        def call(**arguments: Any) -> None:  # noqa: ANN401
            given = {name: arguments.pop(name) for name in names}
            function(**arguments, settings=load_settings(given))

        own = [
            parameter
            for parameter in inspect.signature(function, eval_str=True).parameters.values()
            if parameter.name != "settings"
        ]
        parameters = [*own, *flags]
        call.__name__, call.__doc__ = function.__name__, function.__doc__
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return call

    return decorate


def _parameter(name: str) -> inspect.Parameter:
    meta, default = meta_of(name), getattr(Settings(), name)
    flag = flag_of(name)
    shown = "" if default in (None, []) else f" [default: {_show(default)}]"
    option = typer.Option(
        f"{flag}/--no-{flag[2:]}" if isinstance(default, bool) else flag,
        help=f"{meta.description}{shown} ({ENV_PREFIX}{name.upper()})",
        show_default=False,
        metavar=_metavar(name, default),
    )
    annotation = Annotated[_flag_type(name, default), option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _flag_type(name: str, default: object) -> Any:  # noqa: ANN401
    """What the flag's text is read as; sizes and names stay texts, which `config` reads."""
    if is_list(name):
        return Optional[list[str]]  # noqa: UP045 - typer reads it
    kinds = {*get_args(get_args(OPTIONS[name].type)[0]), type(default)}
    kinds |= {inner for kind in list(kinds) for inner in get_args(kind)}
    if bool in kinds:
        return Optional[bool]  # noqa: UP045
    if float in kinds:
        return Optional[float]  # noqa: UP045
    if int in kinds and (meta_of(name).extra or {})["unit"] != "bytes":
        return Optional[int]  # noqa: UP045
    return Optional[str]  # noqa: UP045


def _metavar(name: str, default: object) -> str | None:
    if isinstance(default, bool):
        return None
    if isinstance(default, StrEnum):
        return "|".join(type(default))
    return {"bytes": "SIZE", "seconds": "SECONDS", "tokens": "TOKENS"}.get((meta_of(name).extra or {})["unit"])


def _show(default: object) -> str:
    return ",".join(default) if isinstance(default, list) else str(default)
