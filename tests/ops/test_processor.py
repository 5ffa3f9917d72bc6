from __future__ import annotations

import pytest
import torch

from inlay.engine.device import choose
from inlay.errors import ConfigError
from inlay.ops.int8 import can_multiply_bytes
from inlay.ops.linear import can_pack
from inlay.ops.native import _runnable


@pytest.fixture(autouse=True)
def newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that has everything; builds of the kernels are only looked up, not run."""
    monkeypatch.delenv("INLAY_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for name in ("_is_avx512_bf16_supported", "_is_vnni_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: True)


@pytest.mark.parametrize(
    ("most", "builds", "dtype", "has_bytes"),
    [
        ("", ["avx512_bf16", "avx512", "avx2"], "bfloat16", True),
        ("avx512", ["avx512", "avx2"], "float32", False),
        ("AVX2", ["avx2"], "float32", False),
    ],
)
def test_what_is_hidden_is_chosen_nowhere(
    monkeypatch: pytest.MonkeyPatch, most: str, builds: list[str], dtype: str, has_bytes: bool
) -> None:
    monkeypatch.setenv("INLAY_MAX_CPU_ISA", most)
    assert _runnable() == builds
    assert choose("cpu", "auto").dtype_name == dtype
    assert can_multiply_bytes() is has_bytes
    if most == "AVX2":
        assert not can_pack(torch.zeros(4, 4, dtype=torch.bfloat16))


def test_a_set_that_is_not_known_is_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INLAY_MAX_CPU_ISA", "sse2")
    with pytest.raises(ConfigError, match="INLAY_MAX_CPU_ISA=sse2: use avx2 or avx512"):
        choose("cpu", "auto")
