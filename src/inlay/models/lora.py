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
from inlay.models.adapter_config import CONFIG, AdapterConfig, adapter_file, read_adapter_config
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
    config, file = read_adapter_config(path), adapter_file(path)
    linears = {f"{name}.weight": module for name, module in model.named_modules() if isinstance(module, Linear)}
    parts: dict[str, dict[str, Tensor]] = {}  # by module path in the model that was trained
    leftover: list[str] = []
    for name, tensor in read_tensors([file]):
        module_path, kind = _split(name)
        target = model.attribute_name(f"{module_path}.weight") if kind else ""
        if target is None and not any(head.reads(f"{module_path}.weight") for head in heads):
            continue  # no answer depends on it
        if not kind or target not in linears:
            leftover.append(name)
        elif not torch.isfinite(tensor).all():
            raise ModelError(f"{file}: the tensor {name!r} has values that are not finite: fetch the adapter again")
        else:
            parts.setdefault(module_path, {})[kind] = tensor.float()
    if leftover:
        raise ModelError(
            f"{file} is an adapter of another model than the base, or one that changes more than linear layers (such "
            "as embeddings or heads), which is not supported: merge it with peft (merge_and_unload), and serve the "
            f"result. Tensors without a layer: {listed(sorted(leftover))}"
        )
    found: dict[str, LowRank] = {}
    for module_path, own in parts.items():
        module, target = _Module(file, module_path, config), str(model.attribute_name(f"{module_path}.weight"))
        if target in found:
            raise module.error("is there twice, by two names: fetch the adapter again")
        found[target] = _low_rank(module, own, linears[target])
    _refuse_partial(config, file, found, linears)
    return found


def merging(low_ranks: Mapping[str, LowRank]) -> Callable[[str, Tensor], Tensor]:
    """What puts an adapter into weights as they are loaded, by their names in the model."""

    def merge(name: str, weight: Tensor) -> Tensor:
        low_rank = low_ranks.get(name)
        if low_rank is None or weight.shape != (len(low_rank.b), low_rank.a.shape[1]):
            return weight  # of another shape it is refused as such
        return low_rank.put_into(weight)

    return merge


def _split(name: str) -> tuple[str, str]:
    """A module's path in the model that was trained, and which of its tensors this is; '' for none."""
    for kind in (_A, _B, _MAGNITUDE):
        if name.startswith(_WRAPPER) and name.endswith(f".{kind}"):
            return name.removeprefix(_WRAPPER).removesuffix(f".{kind}"), kind
    return name, ""


@dataclass(frozen=True, slots=True)
class _Module:
    """An adapted module, for what may be wrong with it."""

    file: Path
    path: str  # in the model that was trained
    config: AdapterConfig

    def error(self, problem: str) -> ModelError:
        return ModelError(f"{self.file}: {self.path!r} {problem}")


def _low_rank(module: _Module, own: Mapping[str, Tensor], linear: Linear) -> LowRank:
    config = module.config
    if not config.adapts(module.path):
        raise module.error(f"is adapted, though {CONFIG} does not select it: both are not of the same adapter")
    wanted = (_A, _B, _MAGNITUDE) if config.use_dora else (_A, _B)
    for kind in (_A, _B, _MAGNITUDE):
        if (kind in own) != (kind in wanted):
            why = f"{CONFIG} says use_dora={bool(config.use_dora)}; fetch the adapter again"
            raise module.error(f"has {'a' if kind in own else 'no'} {kind}: {why}")
    width_out, width_in = linear.weight.shape
    rank = config.rank_of(module.path)
    shapes = {_A: (rank, width_in), _B: (width_out, rank), _MAGNITUDE: (width_out,)}
    for kind in wanted:
        if tuple(own[kind].shape) != shapes[kind]:
            told = f"by the rank {rank} of {CONFIG} and the base's {width_in} → {width_out} it has {list(shapes[kind])}"
            raise module.error(f"has {kind} of {list(own[kind].shape)}; {told}: is it of another model or training?")
    return LowRank(own[_A], own[_B] * config.scale_of(module.path, rank), own.get(_MAGNITUDE))


def _refuse_partial(
    config: AdapterConfig, file: Path, found: Mapping[str, LowRank], linears: Mapping[str, Linear]
) -> None:
    """Refuse an adapter whose file has not all that its config lists."""
    if not found:
        raise ModelError(f"{file} has no LoRA of any linear layer of the base: fetch the adapter again")
    if isinstance(config.target_modules, list):
        paths = {name: name.removesuffix(".weight") for name in linears.keys() - found.keys()}
        missing = sorted(name for name, path in paths.items() if config.adapts(path))
        if missing:
            raise ModelError(f"{file} has no tensors of {listed(missing)}, which {CONFIG} lists: fetch it again")
