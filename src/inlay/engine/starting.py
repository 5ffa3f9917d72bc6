"""Starts what serves a model: an engine on a thread, or one for each of several GPUs.

In: a spec and the engine's settings. Out: a `Worker` that loads.
"""

from __future__ import annotations

import torch
from msgspec.structs import replace

from inlay.config import Settings
from inlay.engine.loading import choose_for, load_engine
from inlay.engine.replicas import ReplicaWorker
from inlay.engine.worker import DeviceWorker
from inlay.errors import ConfigError
from inlay.types import ModelSpec, Worker


def start_worker(spec: ModelSpec, settings: Settings) -> Worker:
    """A worker that has begun to load; `ConfigError` where there are too few devices."""
    if settings.data_parallel_size == 1:
        return _start(spec, settings)
    return ReplicaWorker([_start(spec, replace(settings, device=device)) for device in _devices(spec, settings)])


def start_replica(spec: ModelSpec, settings: Settings, number: int, *, has_share: bool) -> Worker:
    """One of several workers, each in a process of its own, which may have its share of the processors.

    `ConfigError` where there are too few devices.
    """
    size = settings.data_parallel_size
    if size > 1 and choose_for(spec, settings).device.type == "cpu":
        if settings.tensor_parallel_size > 1:
            raise ConfigError("--data-parallel-size and --tensor-parallel-size go together on GPUs only")
        if not has_share:
            raise ConfigError("--data-parallel-size on a processor, where there is a GPU: add --device cpu")
    elif size > 1:
        settings = replace(settings, device=_devices(spec, settings)[number])
    return _start(spec, settings)


def _start(spec: ModelSpec, settings: Settings) -> DeviceWorker:
    return DeviceWorker(spec, lambda spec, stats: load_engine(spec, settings, stats), settings.stall_timeout)


def _devices(spec: ModelSpec, settings: Settings) -> list[str]:
    """The first of each replica."""
    size, each = settings.data_parallel_size, settings.tensor_parallel_size
    device = choose_for(spec, settings).device
    if device.type != "cuda":
        raise ConfigError(
            f"--data-parallel-size {size} is for GPUs, and the device is {device}: on a processor it takes "
            "processes, which inlay serve starts (--isolation process)"
        )
    first, count = device.index or 0, torch.cuda.device_count()
    if first + size * each > count:
        raise ConfigError(
            f"--data-parallel-size {size} x --tensor-parallel-size {each} from {device} on needs {size * each} "
            f"devices, and this machine has cuda:0 to cuda:{count - 1}"
        )
    return [f"cuda:{first + number * each}" for number in range(size)]
