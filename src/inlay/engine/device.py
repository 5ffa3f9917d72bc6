"""Chooses the device and the dtype, once, and says why.

In: what the user asked for. Out: torch's device and dtype with a reason for the log. Half precision is
only chosen where the processor computes in it; elsewhere it is emulated and slower than float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from inlay.config import AUTO
from inlay.errors import ConfigError
from inlay.ops.fp8 import has_fp8
from inlay.ops.int8 import can_multiply_bytes
from inlay.ops.processor import has_amx, has_arm_bf16, has_avx512_bf16

INT8, FP8 = "int8", "fp8"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ALIASES = {"half": "float16", "fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32"}
AMPERE = (8, 0)  # the first compute capability with bf16


@dataclass(frozen=True, slots=True)
class Choice:
    """A device and a dtype, and why they were taken."""

    device: torch.device
    dtype: torch.dtype  # of what is not int8
    dtype_name: str
    reason: str

    @property
    def is_int8(self) -> bool:
        return self.dtype_name == INT8

    @property
    def is_fp8(self) -> bool:
        return self.dtype_name == FP8


def choose(device: str, dtype: str) -> Choice:
    """`auto` or a name for each; `ConfigError` when this machine or Inlay does not have it."""
    chosen = _choose_device(device)
    if dtype == INT8:
        return _choose_int8(chosen)
    if dtype == FP8:
        return _choose_fp8(chosen)
    name, reason = _choose_dtype(chosen, dtype)
    return Choice(chosen, DTYPES[name], name, reason)


def _choose_int8(device: torch.device) -> Choice:
    if device.type != "cpu":
        raise ConfigError(f"--dtype int8 is for processors, and the device is {device}: use bfloat16, or --device cpu")
    if not can_multiply_bytes():
        raise ConfigError(
            "--dtype int8 needs Inlay's compiled kernels, or a processor with VNNI and torch with oneDNN: use auto, "
            "or install Inlay where there is a C++ compiler"
        )
    name, reason = _choose_dtype(device, AUTO)
    return Choice(device, DTYPES[name], INT8, f"asked for; the rest in {name}: {reason}")


def _choose_fp8(device: torch.device) -> Choice:
    if not has_fp8(device):
        raise ConfigError(
            f"--dtype fp8 needs an NVIDIA GPU from sm89 on, and the device is {device}: use auto or int8, or "
            "the original of a checkpoint that is stored in fp8"
        )
    return Choice(device, torch.bfloat16, FP8, "asked for; the rest in bfloat16")


def _choose_device(asked: str) -> torch.device:
    present = ["cpu"]
    if torch.cuda.is_available():
        present.insert(0, "cuda")
    elif torch.backends.mps.is_available():
        present.insert(0, "mps")
    if asked in (AUTO, "cuda"):
        asked = "cuda:0" if present[0] == "cuda" else present[0] if asked == AUTO else asked
    if asked.split(":")[0] not in present:
        why = "; torch was built without CUDA: install a build with it" if _lacks_cuda(asked) else ""
        raise ConfigError(f"--device {asked}: this machine has {' and '.join(present)} (or use auto){why}")
    try:
        device = torch.device(asked)
        if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
            raise ConfigError(f"--device {asked}: this machine has cuda:0 to cuda:{count - 1}")
        return device
    except RuntimeError as error:
        raise ConfigError(f"--device {asked} is not a device: use auto, cpu, cuda, cuda:N or mps") from error


def _lacks_cuda(asked: str) -> bool:
    return asked.startswith("cuda") and torch.version.cuda is None


def _choose_dtype(device: torch.device, asked: str) -> tuple[str, str]:
    asked = _ALIASES.get(asked, asked)
    if asked in DTYPES:
        return asked, "asked for"
    if asked != AUTO:
        stored = "; what inlay precompute keeps vectors in is --store-dtype" if asked in ("f16", "f32") else ""
        raise ConfigError(f"--dtype {asked}: use auto, {', '.join([*DTYPES, INT8, FP8])}{stored}")
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= AMPERE:
            return "bfloat16", "the GPU computes in bfloat16"
        return "float32", "the GPU is older than sm80 and has no bfloat16"
    if device.type == "cpu":
        if has_avx512_bf16():
            return "bfloat16", "the processor has AVX512-BF16"
        if has_amx():
            return "bfloat16", "the processor has AMX"
        if has_arm_bf16():
            return "bfloat16", "the processor has ARM's bfloat16 products"
        return "float32", "the processor has no native bfloat16"
    return "float32", f"bfloat16 is not known to be native on {device.type}"
