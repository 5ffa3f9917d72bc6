"""Engines run where it is best, with the reason, and are told no secret."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from inlay.config import OPTIONS
from inlay.config_values import make_settings
from inlay.distributed import isolation as module
from inlay.distributed.isolation import choose_isolation, settings_of_engines
from inlay.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "has_gpu", "kind", "reason"),
    [
        ({}, False, "thread", "processor"),
        ({}, True, "process", "GPU"),
        ({"device": "cpu"}, True, "thread", "processor"),
        ({"device": "cuda:1"}, False, "process", "GPU"),
        ({"tensor_parallel_size": 2, "device": "cpu"}, False, "process", "several engines"),
        ({"data_parallel_size": 2}, True, "process", "several engines"),
        ({"isolation": "thread", "device": "cuda"}, True, "thread", "asked"),
        ({"isolation": "process"}, False, "process", "asked"),
        ({"front_ends": 2}, False, "process", "front ends"),
    ],
)
def test_what_is_best_is_chosen_with_its_reason(
    options: dict[str, object], has_gpu: bool, kind: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GPU_DRIVERS", (tmp_path if has_gpu else tmp_path / "none",))
    chosen = choose_isolation(make_settings(options))
    assert chosen.kind == kind
    assert reason in chosen.reason


def test_front_ends_cannot_share_a_thread() -> None:
    with pytest.raises(ConfigError, match="leave --isolation thread out"):
        choose_isolation(make_settings({"front_ends": 2, "isolation": "thread"}))


def test_engines_are_told_what_they_read_and_no_secret() -> None:
    given = {"api_key": ["k"], "cache_secret": "s", "cache": ["redis://:p@host/0"], "dtype": "float32"}
    told = settings_of_engines(make_settings({**given, "max_queue_tokens": 7, "stall_timeout": 3.0}))
    assert (told.dtype, told.max_queue_tokens, told.stall_timeout) == ("float32", 7, 3.0)
    text = msgspec.json.encode(told).decode()
    for secret in ('"k"', '"s"', "redis"):
        assert secret not in text


def test_engines_are_told_of_each_option_that_makes_an_engine() -> None:
    """An option that is new and forgotten here would silently have no effect in a process."""
    source = Path(module.__file__).parents[1] / "engine"
    read = "".join(file.read_text() for file in source.glob("*.py"))
    used = {name for name in OPTIONS if f"settings.{name}" in read}
    assert used
    changed = {name: field for name, field in OPTIONS.items() if name in used}
    for name in changed:
        assert getattr(settings_of_engines(_changed(name)), name) == getattr(_changed(name), name), name


def _changed(name: str) -> object:
    value = getattr(make_settings({}), name)
    other = {
        bool: lambda: not value,
        int: lambda: value + 1,
        float: lambda: value / 2,
        str: lambda: "float32" if name == "dtype" else "cpu",
        type(None): lambda: 3,
        list: lambda: ["other"],
    }[type(value)]()
    return make_settings({name: other})
