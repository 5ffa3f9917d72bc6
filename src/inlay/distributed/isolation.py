"""Whether engines run in processes of their own, and what of the settings they are told."""

from __future__ import annotations

from typing import NamedTuple

from inlay.config import AUTO, ENGINE, GPU_DRIVERS, OPTIONS, PROCESS, THREAD, Settings, meta_of
from inlay.errors import ConfigError

# Beside those of all verbs that run an engine.
_OWN = ("max_queue_tokens", "stall_timeout", "log_level", "log_format")


class Isolation(NamedTuple):
    """`thread` or `process`, and why."""

    kind: str
    reason: str


def choose_isolation(settings: Settings) -> Isolation:
    """What is asked for, or what is best here: a thread costs nothing, a process survives what a GPU does."""
    if settings.front_ends > 1:
        if settings.isolation == THREAD:
            raise ConfigError("--front-ends need engines that they share: leave --isolation thread out")
        return Isolation(PROCESS, "several front ends share the engines")
    if settings.isolation != AUTO:
        return Isolation(settings.isolation, "as asked")
    if settings.tensor_parallel_size * settings.data_parallel_size > 1:
        return Isolation(PROCESS, "there are several engines")
    if not is_on_processor(settings):
        return Isolation(PROCESS, "a GPU is used")
    return Isolation(THREAD, "one engine on a processor")


def is_on_processor(settings: Settings) -> bool:
    """Is it certain that no GPU computes? To be known before torch is imported."""
    return settings.device == "cpu" or (settings.device == AUTO and not any(gpu.exists() for gpu in GPU_DRIVERS))


def settings_of_engines(settings: Settings) -> Settings:
    """Those that an engine reads, and no secret."""
    names = [name for name in OPTIONS if set(ENGINE) <= set((meta_of(name).extra or {})["verbs"])]
    names += ["data_parallel_size", "adapter", *_OWN]
    return Settings(**{name: getattr(settings, name) for name in names})
