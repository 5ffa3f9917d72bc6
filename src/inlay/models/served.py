"""The specs of the models to serve, by the names to serve them by. Knows no torch."""

from __future__ import annotations

from collections.abc import Sequence

from inlay.config import Settings
from inlay.errors import ConfigError
from inlay.models.adapters import with_adapters
from inlay.models.source import locate, served_name
from inlay.models.spec import read_spec
from inlay.types import ModelSpec


def read_specs(models: Sequence[str], settings: Settings) -> list[ModelSpec]:
    """Of demo, hub ids or directories, each with the adapters that are served beside it."""
    names = settings.served_model_name or [served_name(model) for model in models]
    if len(names) != len(models):
        raise ConfigError(f"--served-model-name is given {len(names)} times for {len(models)} models: once for each")
    if len(set(names)) != len(names):
        raise ConfigError(f"two models have one name ({', '.join(names)}): tell them apart with --served-model-name")
    pairs = zip(models, names, strict=True)
    specs = [read_spec(locate(model), name, settings.context_length) for model, name in pairs]
    return with_adapters(specs, settings.adapter, settings.context_length)
