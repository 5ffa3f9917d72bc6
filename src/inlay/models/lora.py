"""Reads a LoRA for a forward pass, and puts it into the weights.

In: an adapter's directory and the linears of a model. Out: for each adapted one, two small matrices and their factor;
and weights with them put in: W + s·B·A (Hu et al. 2021), for DoRA m ⊙ (W + s·B·A) / ‖W + s·B·A‖ by rows (Liu et al.
2024), in float32. Tensors that belong nowhere are errors that name them. Knows nothing of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from inlay.errors import ModelError
from inlay.models.adapter_config import AdapterConfig, adapter_file, read_adapter_config
from inlay.models.forward import ForwardPass
from inlay.models.heads.head import Head
from inlay.models.parts import Linear
from inlay.models.weights import listed, read_tensors

_WRAPPER = "base_model.model."
_A, _B, _MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"


@dataclass(frozen=True, slots=True)
class LowRank:
    """What an adapter adds to one linear: s·B·A."""

    a: Tensor  # [rank, in] float32
    b: Tensor  # [out, rank] float32, times the factor
    magnitude: Tensor | None = None  # [out] float32, of DoRA: the lengths of the rows of the sum

    def on(self, device: torch.device) -> LowRank:
        """The same on a device."""
        magnitude = None if self.magnitude is None else self.magnitude.to(device)
        return LowRank(self.a.to(device), self.b.to(device), magnitude)

    @property
    def rank(self) -> int:
        return len(self.a)

    def sum_with(self, weight: Tensor) -> Tensor:
        """W + s·B·A, [out, in] in float32."""
        merged: Tensor = weight.float().addmm(self.b, self.a)
        return merged

    def put_into(self, weight: Tensor) -> Tensor:
        """The adapted weight [out, in], in float32."""
        merged = self.sum_with(weight)
        return merged if self.magnitude is None else merged * (self.magnitude / merged.norm(dim=1))[:, None]


def read_lora(path: Path, model: ForwardPass, heads: Iterable[Head]) -> dict[str, LowRank]:
    """By the name of each adapted linear's weight in the model, which may be one without memory."""
    config = read_adapter_config(path)
    linears = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, Linear)}
    parts: dict[str, dict[str, Tensor]] = {}  # by module path in the model that was trained
    leftover: list[str] = []
    for name, tensor in read_tensors([adapter_file(path)]):
        module_path, kind = _split(name)
        target = model.attribute_name(f"{module_path}.weight") if kind else ""
        if target is None and not any(head.reads(f"{module_path}.weight") for head in heads):
            continue  # no answer depends on it
        if not kind or target not in linears:
            leftover.append(name)
        else:
            parts.setdefault(module_path, {})[kind] = tensor.float()
    if leftover:
        raise ModelError(
            f"{adapter_file(path)} has tensors that belong to no linear layer of the base: "
            f"{listed(sorted(leftover))}; is it an adapter of another model, or one that also changes embeddings or "
            "heads? Those are not supported: merge it with peft (merge_and_unload), and serve the result"
        )
    found = {}
    for module_path, own in parts.items():
        target = str(model.attribute_name(f"{module_path}.weight"))
        found[target] = _low_rank(config, module_path, own, linears[target])
    _refuse_partial(config, found, linears)
    return found


def merging(low_ranks: Mapping[str, LowRank]) -> Callable[[str, Tensor], Tensor]:
    """What puts an adapter into weights as they are loaded, by their names in the model."""

    def merge(name: str, weight: Tensor) -> Tensor:
        low_rank = low_ranks.get(name)
        if low_rank is None:
            return weight
        return low_rank.put_into(weight)

    return merge


def _split(name: str) -> tuple[str, str]:
    """A module's path in the model that was trained, and which of its tensors this is; '' for none."""
    for kind in (_A, _B, _MAGNITUDE):
        if name.startswith(_WRAPPER) and name.endswith(f".{kind}"):
            return name.removeprefix(_WRAPPER).removesuffix(f".{kind}"), kind
    return name, ""


def _low_rank(config: AdapterConfig, module_path: str, own: Mapping[str, Tensor], linear: Linear) -> LowRank:
    a, b, magnitude = own.get(_A), own.get(_B), own.get(_MAGNITUDE)
    width_out, width_in = linear.weight.shape
    if a is None or b is None or (magnitude is None and config.is_dora):
        raise ModelError(f"{adapter_file(config.path)} has not all tensors of {module_path!r}: fetch it again")
    rank = len(a)
    fits = a.shape == (rank, width_in) and b.shape == (width_out, rank) and rank > 0
    if not fits or (magnitude is not None and magnitude.shape != (width_out,)):
        shapes = f"{list(a.shape)} and {list(b.shape)}"
        raise ModelError(
            f"{adapter_file(config.path)}: {shapes} of {module_path!r} do not fit the base's {width_in} → {width_out}: "
            "is it an adapter of another model?"
        )
    return LowRank(a, b * config.scale_of(module_path, rank), magnitude)


def _refuse_partial(config: AdapterConfig, found: Mapping[str, LowRank], linears: Mapping[str, Linear]) -> None:
    """Refuse an adapter whose file has not all that its config says."""
    if not found:
        raise ModelError(f"{adapter_file(config.path)} has no LoRA of any linear layer of the base")
    ends = tuple(f".{target}.weight" for target in config.targets)
    missing = sorted(name for name in linears.keys() - found.keys() if f".{name}".endswith(ends) and ends)
    if missing:
        raise ModelError(
            f"{adapter_file(config.path)} has no tensors of {listed(missing)}, which {config.path.name} is said to "
            "adapt: fetch it again"
        )
