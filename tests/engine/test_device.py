from __future__ import annotations

import pytest
import torch

from inlay.engine.device import choose
from inlay.errors import ConfigError


@pytest.mark.parametrize(
    ("bf16", "amx", "name", "reason"),
    [
        (True, False, "bfloat16", "AVX512-BF16"),
        (False, True, "bfloat16", "AMX"),
        (False, False, "float32", "no native bfloat16"),
    ],
)
def test_auto_takes_bfloat16_only_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, amx: bool, name: str, reason: str
) -> None:
    monkeypatch.delenv("INLAY_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    choice = choose("cpu", "auto")
    assert choice.dtype_name == name
    assert reason in choice.reason


@pytest.mark.parametrize(("asked", "name"), [("half", "float16"), ("bf16", "bfloat16"), ("float32", "float32")])
def test_what_is_asked_for_is_taken(asked: str, name: str) -> None:
    assert choose("cpu", asked).dtype_name == name


@pytest.mark.parametrize(("device", "dtype"), [("cpu", "int3"), ("tpu", "auto"), ("cpu:x", "auto")])
def test_what_there_is_not_is_refused_with_what_there_is(device: str, dtype: str) -> None:
    with pytest.raises(ConfigError, match="auto"):
        choose(device, dtype)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="this machine has"):
        choose("cuda", "auto")
