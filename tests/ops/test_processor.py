from __future__ import annotations

import pytest
import torch

from inlay.engine.device import choose
from inlay.errors import ConfigError
from inlay.ops import processor
from inlay.ops.linear import can_pack
from inlay.ops.processor import AVX_VNNI, BF16_PRODUCTS, DOT_PRODUCTS, INT8_PRODUCTS, runnable_builds


@pytest.fixture(autouse=True)
def newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that has everything; builds of the kernels are only looked up, not run."""
    monkeypatch.delenv("INLAY_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(processor, "_features", lambda: AVX_VNNI)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for name in ("_is_avx512_bf16_supported", "_is_vnni_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: True)


@pytest.mark.parametrize(
    ("most", "builds", "dtype"),
    [
        ("", ["avx512_bf16", "avx512_vnni", "avx512", "avx2_vnni", "avx2"], "bfloat16"),
        ("avx512_bf16", ["avx512_bf16", "avx512_vnni", "avx512", "avx2_vnni", "avx2"], "bfloat16"),
        ("avx512_vnni", ["avx512_vnni", "avx512", "avx2_vnni", "avx2"], "float32"),
        ("avx512", ["avx512", "avx2_vnni", "avx2"], "float32"),
        ("avx2_vnni", ["avx2_vnni", "avx2"], "float32"),
        ("AVX2", ["avx2"], "float32"),
    ],
)
def test_what_is_hidden_is_chosen_nowhere(
    monkeypatch: pytest.MonkeyPatch, most: str, builds: list[str], dtype: str
) -> None:
    monkeypatch.setenv("INLAY_MAX_CPU_ISA", most)
    assert runnable_builds() == builds
    assert choose("cpu", "auto").dtype_name == dtype
    if most == "AVX2":
        assert not can_pack(torch.zeros(4, 4, dtype=torch.bfloat16))


def test_a_set_that_is_not_known_is_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INLAY_MAX_CPU_ISA", "sse2")
    with pytest.raises(ConfigError, match="INLAY_MAX_CPU_ISA=sse2: use avx2, avx2_vnni, avx512"):
        choose("cpu", "auto")


@pytest.mark.parametrize(
    ("capability", "avx_vnni", "vnni", "bf16", "best"),
    [
        ("DEFAULT", False, False, False, None),
        ("AVX2", False, False, False, "avx2"),  # Haswell, Zen 3
        ("AVX2", True, False, False, "avx2_vnni"),  # Alder Lake
        ("AVX512", False, False, False, "avx512"),  # Skylake
        ("AVX512", False, True, False, "avx512_vnni"),  # Cascade Lake, Ice Lake
        ("AVX512", False, True, True, "avx512_bf16"),  # Zen 4
    ],
)
def test_each_processor_gets_the_newest_build_that_it_runs(
    monkeypatch: pytest.MonkeyPatch, capability: str, avx_vnni: bool, vnni: bool, bf16: bool, best: str | None
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(processor, "_features", lambda: AVX_VNNI if avx_vnni else 0)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    assert next(iter(runnable_builds()), None) == best


@pytest.mark.parametrize(
    ("features", "builds", "dtype"),
    [
        (0, [], "float32"),
        (DOT_PRODUCTS, ["neon"], "float32"),
        (DOT_PRODUCTS | INT8_PRODUCTS, ["neon_i8mm", "neon"], "float32"),
        (DOT_PRODUCTS | INT8_PRODUCTS | BF16_PRODUCTS, ["neon_bf16", "neon_i8mm", "neon"], "bfloat16"),
    ],
)
def test_arm_has_builds_of_its_own(
    monkeypatch: pytest.MonkeyPatch, features: int, builds: list[str], dtype: str
) -> None:
    monkeypatch.setattr(processor.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(processor, "_features", lambda: features)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    for name in ("_is_avx512_bf16_supported", "_is_vnni_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    assert runnable_builds() == builds
    assert choose("cpu", "auto").dtype_name == dtype
