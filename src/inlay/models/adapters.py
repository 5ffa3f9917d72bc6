"""Tells which adapters a model is served with.

In: what the user wrote, NAME=DIR. Out: specs with their adapters' own specs. An adapter that would need another way of
pooling than its base cannot share its passes, and is refused. Knows no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from inlay.errors import ConfigError, ModelError
from inlay.models.adapter_config import read_adapter_config
from inlay.models.source import locate, served_name
from inlay.models.spec import read_spec
from inlay.types import ModelSpec


def parse_adapter(given: str) -> tuple[str, Path]:
    """Name and directory of NAME=DIR, or of DIR alone, whose last part is then the name."""
    name, separator, place = given.partition("=")
    if not separator or Path(given).expanduser().is_dir():
        name, place = served_name(given), given
    if not name or not place:
        raise ConfigError(f"--adapter {given!r} is not NAME=DIR: give the name to serve it by, and its directory")
    if ":" in name or not name.isprintable():
        raise ConfigError(
            f"--adapter {given!r}: a name has no ':', behind which prompts are named, nor control characters"
        )
    return name, locate_adapter(place)


def locate_adapter(place: object) -> Path:
    """The directory of an adapter, or of a hub id."""
    if not isinstance(place, str) or not place:
        raise ConfigError(f"adapter={place!r} is not the directory of an adapter, nor a hub id")
    path = Path(place).expanduser()
    if not path.is_dir() and (place.count("/") != 1 or place.startswith((".", "/", "~"))):
        raise ConfigError(
            f"the adapter {place!r} is not a directory: give that of an adapter in peft's format, or a hub id"
        )
    return locate(place)


def with_adapters(
    specs: Sequence[ModelSpec], given: Sequence[str], context_length: int | None = None
) -> list[ModelSpec]:
    """The specs, each with the adapters that are served beside it; of several models, that which an adapter names."""
    names = [spec.name for spec in specs]
    made = list(specs)
    for text in given:
        name, path = parse_adapter(text)
        if name in names:
            raise ConfigError(f"--adapter {text}: there is a model or adapter {name!r} already: give another name")
        names.append(name)
        at = 0 if len(specs) == 1 else _place_of_base(specs, path)
        made[at] = replace(
            made[at], adapters={**made[at].adapters, name: _beside(specs[at], name, path, context_length)}
        )
    return made


def is_named_base(adapter: ModelSpec, name: str) -> bool:
    """Does the adapter say that it adapts the model of this name, by the last part of a path or hub id?"""
    if adapter.adapter is None:
        return True
    return _names(read_adapter_config(adapter.adapter).base_model_name_or_path or "", name, adapter.path)


def _place_of_base(specs: Sequence[ModelSpec], path: Path) -> int:
    named = read_adapter_config(path).base_model_name_or_path or ""
    places = [at for at, spec in enumerate(specs) if _names(named, spec.name, spec.path)]
    if len(places) != 1:
        raise ConfigError(
            f"--adapter {path} adapts {named or 'an unnamed model'!r}, by base_model_name_or_path in its config, and "
            f"of the models that are served {'several have' if places else 'none has'} that name: name its base there, "
            "or serve both in a server of their own"
        )
    return places[0]


def _beside(base: ModelSpec, name: str, path: Path, context_length: int | None) -> ModelSpec:
    own = read_spec(base.path, name, context_length, path)
    if base.adapter is not None:
        raise ConfigError(f"--adapter {path}: {base.name} is an adapter itself: name its base as the model")
    if (own.pooling, own.dense_layers) != (base.pooling, base.dense_layers):
        raise ModelError(
            f"{path} is pooled otherwise than {base.name}, or has dense modules of its own, and cannot share its "
            "passes: serve it alone, with its directory for a model"
        )
    return own


def _names(named: str, name: str, path: Path) -> bool:
    """Is this model named, by the last part of its name or of its directory?"""
    return named.rstrip("/").rpartition("/")[2] in (name.rstrip("/").rpartition("/")[2], path.name)
