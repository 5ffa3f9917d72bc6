"""Reads adapter_config.json: what a LoRA in peft's format says of itself.

In: an adapter's directory. Out: its base, which modules it adapts, and the rank and the factor of each one's product of
two small matrices. Whatever peft can do besides, and would give other vectors, is refused by name. Knows no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from inlay.errors import ModelError
from inlay.models.objects import read_object

T = TypeVar("T")

CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
ALL_LINEAR = "all-linear"
# What peft 0.21 writes besides, and no vector depends on.
_IDLE = frozenset(
    {
        *("task_type", "auto_mapping", "peft_version", "revision", "inference_mode", "lora_dropout", "megatron_core"),
        *("eva_config", "runtime_config", "qalora_group_size", "ensure_weight_tying", "layers_pattern"),
    }
)
# Ways to begin that leave the base as it is; others (PiSSA, OLoRA, LoftQ, CorDA) take from it what they begin with.
_INITS = (True, False, None, "gaussian", "eva", "orthogonal")

Rank = Annotated[int, Meta(ge=1)]
Text = Annotated[str, Meta(min_length=1)]
Names = Annotated[list[Text], Meta(min_length=1)]


class AdapterConfig(Struct, frozen=True):
    """Of a LoRA, in the words of its file."""

    target_modules: Names | Text
    r: Rank
    lora_alpha: float
    peft_type: str = "LORA"
    bias: str = "none"
    base_model_name_or_path: str | None = None  # hub id or directory, perhaps of another machine
    use_rslora: bool | None = False  # rank-stabilised (Kalajdzievski 2023)
    use_dora: bool | None = False
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, float] | None = None
    exclude_modules: Names | Text | None = None
    layers_to_transform: list[int] | int | None = None
    init_lora_weights: bool | str | None = True

    def rank_of(self, path: str) -> int:
        """The rank of a module, by its path in the model that was trained."""
        return _of(self.rank_pattern, path, self.r)

    def scale_of(self, path: str, rank: int) -> float:
        """The factor of a module: alpha / rank, or alpha / √rank."""
        alpha = _of(self.alpha_pattern, path, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def adapts(self, path: str) -> bool:
        """Does the config select a module? Every linear layer's module is one for `all-linear`."""
        if self.target_modules != ALL_LINEAR and not _matches(self.target_modules, path):
            return False
        if self.exclude_modules is not None and _matches(self.exclude_modules, path):
            return False
        layers = [self.layers_to_transform] if isinstance(self.layers_to_transform, int) else self.layers_to_transform
        number = next((int(part) for part in path.split(".") if part.isdigit()), None)
        return not layers or number in layers


def is_adapter(path: Path) -> bool:
    """Is it the directory of an adapter without the weights of its base?"""
    return (path / CONFIG).is_file() and not (path / "config.json").exists()


def adapter_file(path: Path) -> Path:
    """The file with an adapter's tensors."""
    for name in FILES:
        if (path / name).is_file():
            return path / name
    raise ModelError(f"{path} has no {' or '.join(FILES)}: fetch the adapter again")


def read_adapter_config(path: Path) -> AdapterConfig:
    """What the adapter in `path` says of itself; `ModelError` names what is not supported."""
    file = path / CONFIG
    if not file.is_file():
        raise ModelError(f"{path} has no {CONFIG}: it is not the directory of an adapter in peft's format")
    said = read_object(file)
    _refuse_others(file, said)
    try:
        config = msgspec.convert(said, AdapterConfig)
        patterns = [*(config.rank_pattern or {}), *(config.alpha_pattern or {})]
        patterns += [given for given in (config.target_modules, config.exclude_modules) if isinstance(given, str)]
        for pattern in patterns:
            re.compile(pattern)
    except (msgspec.ValidationError, re.error) as error:
        raise ModelError(f"{file} cannot be understood: {error}: mend it, or fetch the adapter again") from error
    alphas = [config.lora_alpha, *(config.alpha_pattern or {}).values()]
    if not all(math.isfinite(alpha) and alpha for alpha in alphas):
        raise ModelError(f"{file}: an alpha of 0, or one that is not finite, makes no adapter: mend it")
    return config


def _refuse_others(file: Path, said: Mapping[str, Any]) -> None:
    known = {*AdapterConfig.__struct_fields__, *_IDLE}
    asked = [f"{key}={said[key]!r}" for key in sorted(said.keys() - known) if said[key]]
    if said.get("peft_type", "LORA") != "LORA":
        asked = [f"peft_type={said.get('peft_type')!r}"]
    if said.get("bias", "none") != "none":
        asked.append(f"bias={said['bias']!r}")
    if said.get("init_lora_weights") not in _INITS:
        asked.append(f"init_lora_weights={said['init_lora_weights']!r}")
    if asked:
        raise ModelError(
            f"{file}: {', '.join(asked)} is not supported (LoRA, rsLoRA and DoRA of linear layers are): merge the "
            "adapter into its base with peft (merge_and_unload), and serve the result"
        )


def _of(patterns: Mapping[str, T] | None, path: str, otherwise: T) -> T:
    """As peft's `get_pattern_key`: the first pattern that a path ends with."""
    return next((own for key, own in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", path)), otherwise)


def _matches(given: list[str] | str, path: str) -> bool:
    """As peft's `check_target_module_exists`: a list has whole names or ends, a text is a pattern of the whole."""
    if isinstance(given, str):
        return re.fullmatch(given, path) is not None
    return any(path == end or path.endswith(f".{end}") for end in given)
