"""Gives a forward pass its weights: mapped from disk, converted only where the dtype asks for it.

In: a directory and a forward pass built without memory. Out: the same, on its device. A tensor whose
dtype is right stays a view of the file; one that is converted lets go of its pages, so loading never
holds much more than the finished weights. Missing and leftover tensors are errors that name them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from inlay.errors import ModelError
from inlay.models.adapter_config import CONFIG, adapter_file
from inlay.models.forward import ForwardPass
from inlay.types import ModelSpec

SINGLE, INDEX, PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
NAMED_AT_MOST = 6


def weight_files(path: Path) -> list[Path]:
    """The files that hold a checkpoint's weights, in a fixed order."""
    if (path / SINGLE).exists():
        return [path / SINGLE]
    if (path / INDEX).exists():
        try:
            index = msgspec.json.decode((path / INDEX).read_bytes(), type=dict[str, Any])
            names = sorted({str(name) for name in index["weight_map"].values()})
        except (msgspec.DecodeError, KeyError, AttributeError) as error:
            raise ModelError(f"{path / INDEX} cannot be read: {error}") from error
        files = [path / name for name in names]
        for file in files:
            if file.parent != path or not file.is_file():
                raise ModelError(f"{path / INDEX} names {file.name!r}, which is not in {path}: fetch it again")
        return files
    if (path / PICKLED).exists():
        return [path / PICKLED]
    raise ModelError(f"{path} has no weights ({SINGLE}, {INDEX} or {PICKLED})")


def files_beside(spec: ModelSpec) -> list[Path]:
    """Of heads that have files of their own."""
    dense = [file for layer in spec.dense_layers for file in weight_files(layer.path)]
    return [*dense, *spec.head_files.values()]


def adapter_files(spec: ModelSpec) -> list[Path]:
    """Of the adapter that is put into the weights."""
    return [] if spec.adapter is None else [spec.adapter / CONFIG, adapter_file(spec.adapter)]


def load_weights(
    model: ForwardPass,
    files: list[Path],
    device: torch.device,
    is_read_elsewhere: Callable[[str], bool] = lambda name: False,
    adapt: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor,
) -> None:
    """Fill a model that was built on the meta device; each tensor takes the dtype of its parameter.

    Tensors that it does not know are an error, unless `is_read_elsewhere` knows their stored names. `adapt` may change
    what is stored, by its name in the model, before its shape is looked at.
    """
    wanted = model.state_dict()
    found: dict[str, Tensor] = {}
    leftover: list[str] = []
    for stored_name, name, tensor in _wanted_tensors(files, wanted, model, adapt):
        if name not in wanted:
            leftover += [] if is_read_elsewhere(stored_name) else [name]
            continue
        if tensor.shape != wanted[name].shape:
            shapes = f"{list(tensor.shape)} in the file, {list(wanted[name].shape)} by config.json"
            raise ModelError(f"tensor {name!r} has the wrong shape: {shapes}")
        found[name] = tensor.to(device)
    missing = sorted(wanted.keys() - found.keys())
    if missing or leftover:
        raise ModelError(
            f"the weights in {files[0].parent} do not fit config.json: "
            f"missing: {listed(missing)}; leftover: {listed(sorted(leftover))}"
        )
    model.load_state_dict(found, assign=True)


def read_tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """All tensors as they are stored, by their names there."""
    for file in files:
        yield from _read_pickled(file) if file.suffix == ".bin" else _read_safetensors(file)


def _wanted_tensors(
    files: list[Path], wanted: Mapping[str, Tensor], model: ForwardPass, adapt: Callable[[str, Tensor], Tensor]
) -> Iterator[tuple[str, str, Tensor]]:
    for stored_name, tensor in read_tensors(files):
        name = model.attribute_name(stored_name)
        if name is None:
            continue
        if name in wanted:
            tensor = adapt(name, tensor)
        if name in wanted and tensor.dtype != wanted[name].dtype:
            tensor = _convert(stored_name, tensor, wanted[name].dtype)
        yield stored_name, name, tensor


def _read_safetensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(file, "pt") as opened:
            names = list(opened.keys())
        for name in names:
            with safe_open(file, "pt") as opened:  # one mapping a tensor: it ends with its last view
                yield name, opened.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read ({error}): fetch it again") from error


def _read_pickled(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        yield from torch.load(file, map_location="cpu", mmap=True, weights_only=True).items()
    except (UnpicklingError, RuntimeError, OSError, ValueError, EOFError, AttributeError) as error:
        raise ModelError(
            f"{file} cannot be read as plain tensors: it is damaged, or holds more than those, which is not read "
            f"({type(error).__name__}); convert it to safetensors where you trust it"
        ) from error


def _convert(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        raise ModelError(
            f"tensor {name!r} is stored as {tensor.dtype}: of quantised checkpoints only "
            "inlay quantize's are supported, and this is not one, or not all of it"
        )
    converted = tensor.to(dtype)
    if dtype == torch.float16 and not torch.isfinite(converted).all():
        raise ModelError(f"tensor {name!r} overflows in float16: use --dtype bfloat16 or float32")
    return converted


def listed(names: list[str]) -> str:
    """Names for a message, the first few of many."""
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return f"{', '.join(names[:NAMED_AT_MOST]) or 'none'}{more}"
