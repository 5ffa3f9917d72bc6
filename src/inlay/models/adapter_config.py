"""Reads adapter_config.json: what a LoRA in peft's format says of itself.

In: an adapter's directory. Out: its base, and the factor of each module's product of two small matrices. Whatever peft
can do besides, and would give other vectors, is refused by name. Knows no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlay.errors import ModelError
from inlay.models.objects import read_object

CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
# What peft 0.21 writes and no vector depends on, once it is trained, or what is looked at below.
_KNOWN = frozenset(
    {
        *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "use_rslora"),
        *("layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "megatron_core", "eva_config"),
        *("runtime_config", "qalora_group_size", "init_lora_weights", "bias", "use_dora", "ensure_weight_tying"),
    }
)
# Ways to begin that leave the base as it is; others (PiSSA, OLoRA, LoftQ, CorDA) take from it what they begin with.
_INITS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Of a LoRA."""

    path: Path
    base: str  # hub id or directory, perhaps of another machine
    alpha: float
    alphas: Mapping[str, float]  # by patterns of module paths
    uses_square_root: bool  # rank-stabilised (Kalajdzievski 2023)
    is_dora: bool
    targets: tuple[str, ...]  # ends of the paths of adapted modules, where they are listed and all layers have them

    def scale_of(self, path: str, rank: int) -> float:
        """The factor of a module, by its path in the model that was trained: alpha / rank, or alpha / √rank."""
        alpha = next((own for key, own in self.alphas.items() if re.match(rf"(.*\.)?({key})$", path)), self.alpha)
        return alpha / (math.sqrt(rank) if self.uses_square_root else rank)


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
    said = read_object(file)
    if not said:
        raise ModelError(f"{path} has no {CONFIG}: it is not the directory of an adapter in peft's format")
    _refuse_others(file, said)
    try:
        targets = said.get("target_modules")
        is_whole = isinstance(targets, list) and not said.get("layers_to_transform") and not said.get("exclude_modules")
        return AdapterConfig(
            path,
            base=str(said.get("base_model_name_or_path") or ""),
            alpha=float(said["lora_alpha"]),
            alphas={_pattern(key): float(alpha) for key, alpha in (said.get("alpha_pattern") or {}).items()},
            uses_square_root=bool(said.get("use_rslora")),
            is_dora=bool(said.get("use_dora")),
            targets=tuple(map(str, targets)) if targets and is_whole else (),
        )
    except KeyError as error:
        raise ModelError(f"{file} has no {error.args[0]!r}") from error
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise ModelError(f"{file} cannot be understood: {error}") from error


def _refuse_others(file: Path, said: Mapping[str, Any]) -> None:
    asked = [f"{key}={said[key]!r}" for key in sorted(said.keys() - _KNOWN) if said[key]]
    if said.get("peft_type") != "LORA":
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


def _pattern(key: str) -> str:
    re.compile(key)
    return key
