"""A quantised checkpoint on disk: written once, so that a start measures and quantises nothing.

In: a forward pass that `quantise` has made, and the files of its checkpoint. Out: a directory that loads like any
other, with weights in int8 or FP8, their scales, and a report. Tensors have the names of the attributes; what stays in
the float dtype is stored in it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from inlay.errors import ModelError
from inlay.models.forward import ForwardPass
from inlay.models.heads.head import Head
from inlay.models.parts import Projection, multipliers_name
from inlay.models.quantise import QuantisationReport
from inlay.models.source import REPORTS, stored_scheme
from inlay.models.weights import SINGLE, files_beside, read_tensors, weight_files
from inlay.ops.fp8 import Fp8Product, fp8_of
from inlay.ops.int8 import QuantisedWeight, make_stored_int8_product
from inlay.ops.linear import Product, Weights, make_product
from inlay.ops.rows import FP8, Form
from inlay.types import ModelSpec

VERSION = 3
WEIGHT_SUFFIXES = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.onnx", "*.pt", "*.h5", "*.msgpack", ".git*")


ZeroPoint = Annotated[int, msgspec.Meta(ge=2, le=254)]


class StoredReport(msgspec.Struct, forbid_unknown_fields=True):
    """What the file of REPORTS says: of the measurement, and which dtype goes with int8 or fp8."""

    version: int
    dtype: Literal["bfloat16", "float32"]  # of what is not quantised
    mean_cosine: float
    worst_cosine: float
    kept: list[str]
    errors: dict[str, float]
    zero_points: dict[str, ZeroPoint]  # of the activations of each int8 product
    scheme: Literal["int8", "fp8"] = "int8"


def read_report(path: Path) -> StoredReport | None:
    """The report of a quantised checkpoint; None for any other."""
    scheme = stored_scheme(path)
    if scheme is None:
        return None
    file = path / REPORTS[scheme]
    try:
        report = msgspec.json.decode(file.read_bytes(), type=StoredReport)
    except (msgspec.DecodeError, OSError) as error:
        raise ModelError(f"{file} cannot be read ({error}): rebuild it with inlay quantize") from error
    if report.version != VERSION or report.scheme != scheme:
        raise ModelError(
            f"{file} is {report.scheme} of version {report.version}, this Inlay reads {VERSION}: "
            "rebuild it with inlay quantize"
        )
    return report


def expect_stored(model: ForwardPass, report: StoredReport) -> None:
    """Give a model without memory the parameters that a quantised checkpoint fills."""
    names = {name for name, *_ in model.projections()}
    is_int8 = report.scheme == "int8"
    if not names >= set(report.kept) or (is_int8 and set(report.zero_points) != names - set(report.kept)):
        raise ModelError(
            f"the products in {REPORTS[report.scheme]} are not those of the model: rebuild it with inlay quantize"
        )
    for name, module, projection in model.projections():
        if name in report.kept:
            continue
        width_in = projection.linears[0].weight.shape[1]
        if is_int8:
            module.register_parameter(multipliers_name(name.rpartition(".")[2]), _parameter(torch.empty(width_in)))
        for linear in projection.linears:
            linear.register_parameter("weight_scale", _parameter(torch.empty(linear.weight.shape[0])))
            linear.weight = _parameter(torch.empty(linear.weight.shape, dtype=torch.int8 if is_int8 else FP8))


def make_stored(name: str, weights: Weights, dtype: torch.dtype, zero_points: Mapping[str, int]) -> Product:
    """The product of weights as they are stored."""
    if not weights.scales:
        return make_product(weights)
    if weights.parts[0].dtype == FP8:
        return Fp8Product(weights, dtype)
    return make_stored_int8_product(weights, dtype, zero_points[name])


def write_quantised(
    model: ForwardPass,
    heads: Iterable[Head],
    spec: ModelSpec,
    target: Path,
    report: QuantisationReport,
    dtype: torch.dtype,
    scheme: Literal["int8", "fp8"],
) -> int:
    """Write the checkpoint of a quantised model, with what its heads read; the bytes of its weights."""
    if target.exists() and any(target.iterdir()):
        raise ModelError(f"{target} is not empty: give a new directory")
    shutil.copytree(spec.path, target, ignore=_not_to_copy(set(files_beside(spec))), dirs_exist_ok=True)
    multipliers, zero_points = {}, {}
    owners: dict[str, Projection] = {}
    paths = {module: path for path, module in model.named_modules()}
    for name, _, projection in model.projections():
        if projection.takes.is_bytes:
            multipliers[multipliers_name(name)] = projection.takes.multipliers
            zero_points[name] = projection.takes.zero_point
        if projection.takes.is_bytes or projection.takes.dtype == FP8:
            owners.update({f"{paths[linear]}.weight": projection for linear in projection.linears})
    stored: dict[str, Tensor] = {name: tensor for name, tensor in multipliers.items() if tensor is not None}
    for tensor_name, tensor in read_tensors(weight_files(spec.path)):
        attribute = model.attribute_name(tensor_name)
        if attribute is None:
            if any(head.reads(tensor_name) for head in heads):
                stored[tensor_name] = tensor.clone()
        elif attribute in owners:
            stored[attribute], stored[f"{attribute}_scale"] = _quantised(tensor.to(dtype), owners[attribute].takes)
        else:
            stored[attribute] = (tensor.to(dtype) if tensor.ndim > 1 else tensor).clone()
    save_file(stored, target / SINGLE, {"format": "pt"})
    (target / SINGLE).chmod(0o644)  # safetensors lets only its owner read it
    dtype_name: Literal["bfloat16", "float32"] = "bfloat16" if dtype == torch.bfloat16 else "float32"
    about = StoredReport(
        version=VERSION,
        dtype=dtype_name,
        mean_cosine=report.mean_cosine,
        worst_cosine=report.worst_cosine,
        kept=list(report.kept),
        errors=report.errors,
        zero_points=zero_points,
        scheme=scheme,
    )
    (target / REPORTS[scheme]).write_bytes(msgspec.json.format(msgspec.json.encode(about)))  # last: without it, no load
    return sum(tensor.nbytes for tensor in stored.values())


def _quantised(weight: Tensor, takes: Form) -> tuple[Tensor, Tensor]:
    """Values, and the scales of its channels."""
    if takes.is_bytes:
        quantised = QuantisedWeight.of(weight, takes)
        return quantised.values, quantised.scales
    return fp8_of((weight,))


def _not_to_copy(kept: Iterable[Path]) -> Callable[[str, list[str]], Iterable[str]]:
    """Weights, but for those of heads with files of their own, which stay what they are."""
    of_weights = shutil.ignore_patterns(*WEIGHT_SUFFIXES)
    return lambda directory, names: {name for name in of_weights(directory, names) if Path(directory, name) not in kept}


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
