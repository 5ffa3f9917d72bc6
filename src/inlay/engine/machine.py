"""What this machine offers, and what of it an engine would use: a line for each thing, with what could be better.

In: the settings of an engine. Out: findings for a person. Looks, and changes nothing; starts no engine.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

import inlay
from inlay.config import GPU_DRIVERS, Settings
from inlay.engine.device import choose
from inlay.errors import ConfigError
from inlay.models.building import count_products
from inlay.ops.native import kernels_name
from inlay.ops.processor import has_amx, runnable_builds
from inlay.thread_count import choose_threads, cpu_quota
from inlay.types import ModelSpec

GIB = 1 << 30
FEW_DESCRIPTORS = 4096  # fewer bound the connections of a server below its default
LEAST_DISK = 5 * GIB
SPARE = 1.3  # of memory, beside a model's weights
EXTRAS = {
    "redis": "redis",
    "parquet": "pyarrow",
    "search": "faiss",
    "otel": "opentelemetry",
    "qdrant": "qdrant_client",
    "milvus": "pymilvus",
    "ray": "ray",
}  # by the name of the extra, a module that it brings
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "fp8": 1}  # a weight


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing: how it is, and what to do where it could be better. A fault keeps models from being served."""

    thing: str
    is_now: str
    advice: str | None = None
    is_fault: bool = False


def look_at_machine(settings: Settings, specs: Sequence[ModelSpec] = ()) -> Iterator[Finding]:
    """Everything, in the order in which it matters; of models, whether they fit."""
    for look in LOOKS:
        yield look(settings)
    for spec in specs:
        yield _model(spec, settings)


def _software(settings: Settings) -> Finding:
    versions = f"inlay {inlay.__version__}, Python {platform.python_version()}, torch {torch.__version__}"
    return Finding("software", f"{versions}, {platform.system()} {platform.machine()}")


def _processor(settings: Settings) -> Finding:
    name = platform.processor() or platform.machine()
    for line in _lines_of(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    features = [*runnable_builds(), *(["amx"] if has_amx() else [])]
    if not features:
        return Finding("processor", name, "no build of the kernels runs here: they need AVX2, or ARM's dot products")
    return Finding("processor", f"{name} ({', '.join(features)})")


def _kernels(settings: Settings) -> Finding:
    used = kernels_name()
    if used == "torch":
        compiler = "" if shutil.which("c++") or shutil.which("g++") else " a C++ compiler (apt-get install g++) and"
        advice = f"for the compiled ones:{compiler} pip install --force-reinstall inlay"
        return Finding("kernels", "none: torch's own", advice)
    best = runnable_builds()[0]
    advice = f"the build {best} is missing, which this processor runs: install Inlay again"
    return Finding("kernels", used, None if used == best else advice)


def _threads(settings: Settings) -> Finding:
    try:
        chosen = choose_threads()
    except ConfigError as error:
        return Finding("threads", "none", error.message, is_fault=True)
    quota = cpu_quota()
    is_part = quota is not None and quota != int(quota) and quota < (os.cpu_count() or 1)
    advice = f"a quota of {quota:g} processors leaves a part of one unused: make it a whole number" if is_part else None
    return Finding("threads", f"{chosen.count}: {chosen.reason}", advice)


def _memory(settings: Settings) -> Finding:
    available, total = memory_bytes()
    return Finding("memory", f"{available / GIB:.1f} of {total / GIB:.1f} GiB are free")


def _gpu(settings: Settings) -> Finding:
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        told = (f"{card.name}, {card.total_memory / GIB:.0f} GiB, sm{card.major}{card.minor}" for card in cards)
        return Finding("GPU", "; ".join(told))
    if any(driver.exists() for driver in GPU_DRIVERS):
        index = "https://download.pytorch.org/whl/cu128"
        advice = f"there is a driver, but torch cannot use it: pip install torch --index-url {index}"
        return Finding("GPU", "one that torch does not see", advice)
    return Finding("GPU", "none")


def _choice(settings: Settings) -> Finding:
    try:
        choice = choose(settings.device, settings.dtype)
    except ConfigError as error:
        return Finding("device and dtype", "none", error.message, is_fault=True)
    is_slow = choice.device.type == "cpu" and choice.dtype_name == "float32"
    advice = "--dtype int8 is faster, and measured when a model is loaded (inlay quantize)"
    told = f"{choice.device}, {choice.dtype_name}: {choice.reason}"
    return Finding("device and dtype", told, advice if is_slow else None)


def _disk(settings: Settings) -> Finding:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    place = next(one for one in (home, *home.parents) if one.exists())
    free = shutil.disk_usage(place).free
    advice = "models of a hub are kept there: set HF_HOME to a larger disk" if free < LEAST_DISK else None
    return Finding("disk", f"{free / GIB:.0f} GiB are free at {place}", advice)


def _descriptors(settings: Settings) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "as many as wanted" if hard == resource.RLIM_INFINITY else str(hard)
    is_low = hard != resource.RLIM_INFINITY and hard < FEW_DESCRIPTORS
    advice = f"a server takes fewer than its 4,096 connections: raise it (ulimit -n {FEW_DESCRIPTORS + 96})"
    return Finding("open files", f"{soft}, raised to {most} where they are needed", advice if is_low else None)


def _extras(settings: Settings) -> Finding:
    present = [name for name, module in EXTRAS.items() if find_spec(module) is not None]
    absent = [name for name in EXTRAS if name not in present]
    advice = f"where they are wanted: pip install 'inlay[{','.join(absent)}]'" if absent else None
    return Finding("extras", f"{', '.join(present) or 'none'}; not here: {', '.join(absent) or 'none'}", advice)


def _model(spec: ModelSpec, settings: Settings) -> Finding:
    """Do the weights fit into the memory of the device that would be chosen?"""
    thing = f"model {spec.name}"
    try:
        choice = choose(settings.device, settings.dtype)
    except ConfigError:
        return Finding(thing, f"{spec.family}, {spec.num_layers} layers, {spec.max_tokens} tokens")
    stored = sum(file.stat().st_size for file in spec.path.rglob("*.safetensors"))
    needed = _loaded_bytes(spec, stored, choice.dtype_name)
    available = torch.cuda.mem_get_info(choice.device)[0] if choice.device.type == "cuda" else memory_bytes()[0]
    told = f"{spec.family}, {stored / GIB:.2f} GiB stored, about {needed / GIB:.2f} in {choice.dtype_name}"
    if needed * SPARE <= available:
        return Finding(thing, told)
    advice = f"{available / GIB:.1f} GiB are free on {choice.device}: take a smaller --dtype, or a smaller model"
    return Finding(thing, told, advice, is_fault=True)


def _loaded_bytes(spec: ModelSpec, stored: int, dtype: str) -> float:
    """Of the weights, from what is stored: products have the dtype, all else at least two bytes."""
    told = str(spec.config.get("torch_dtype") or spec.config.get("dtype") or "float32")
    parameters = stored / BYTES.get(told.removeprefix("torch."), 4)
    if dtype in ("int8", "fp8") and not count_products(spec):
        dtype = "bfloat16"
    return parameters * BYTES[dtype]


def memory_bytes() -> tuple[int, int]:
    """What is free, and what there is in all, for this process's control group or the machine."""
    numbers = {name: int(rest.split()[0]) * 1024 for name, rest in _pairs_of(Path("/proc/meminfo"))}
    total, available = numbers.get("MemTotal", 0), numbers.get("MemAvailable", 0)
    limit = next(iter(_lines_of(Path("/sys/fs/cgroup/memory.max"))), "max").strip()
    if limit.isdecimal() and int(limit) < total:
        used = int(next(iter(_lines_of(Path("/sys/fs/cgroup/memory.current"))), "0"))
        return min(available, int(limit) - used), int(limit)
    return available, total


def _pairs_of(path: Path) -> Iterator[tuple[str, str]]:
    for line in _lines_of(path):
        name, colon, rest = line.partition(":")
        if colon and rest.strip()[:1].isdecimal():
            yield name, rest


def _lines_of(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


LOOKS: tuple[Callable[[Settings], Finding], ...] = (
    *(_software, _processor, _kernels, _threads, _memory, _gpu, _choice, _disk, _descriptors, _extras),
)
