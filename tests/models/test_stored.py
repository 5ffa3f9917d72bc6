"""A checkpoint written in int8 or fp8 gives the vectors of the model that was quantised when it was loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command import run_inlay
from running import run_packed, sequence_of
from safetensors import safe_open

from inlay import ConfigError, Embedder
from inlay.engine import runner as runner_module
from inlay.engine.device import Choice, choose
from inlay.engine.runner import Runner
from inlay.errors import ModelError
from inlay.models.source import REPORTS
from inlay.models.spec import read_spec
from inlay.ops.int8 import can_multiply_bytes

needs_bytes = pytest.mark.skipif(not can_multiply_bytes(), reason="there is no product of bytes")
LISTS = [[1, 2, 3, 4], [5, 6], [7, 8, 9, 10, 11, 12]]


def make(path: Path, dtype: str = "int8") -> Runner:
    sample = [sequence_of([1, 2, 3, number]) for number in range(8)]
    return Runner(read_spec(path, "x"), choose("cpu", dtype), lambda: sample, 0.9)


@pytest.fixture(params=["qwen3", "bert"])
def written(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path], tmp_path: Path) -> tuple[Runner, Path]:
    if not can_multiply_bytes():
        pytest.skip("there is no product of bytes")
    runner = make(checkpoint(request.param))
    target = tmp_path / "int8"
    runner.write_quantised(target, choose("cpu", "int8"))
    return runner, target


def test_it_gives_the_same_bits_as_the_model_it_was_written_from(written: tuple[Runner, Path]) -> None:
    runner, target = written
    stored = make(target)
    assert np.array_equal(run_packed(stored, LISTS), run_packed(runner, LISTS))
    assert stored.report is None
    assert stored.spec.dtype == "int8"
    assert stored.spec.fingerprint != runner.spec.fingerprint


def test_the_report_and_the_weights_say_what_is_int8(written: tuple[Runner, Path]) -> None:
    runner, target = written
    report = json.loads((target / REPORTS["int8"]).read_text())
    assert report["kept"] == list(runner.report.kept)
    assert report["mean_cosine"] == pytest.approx(runner.report.mean_cosine)
    with safe_open(target / "model.safetensors", "np") as opened:
        kinds = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    scaled = {name.removesuffix("_scale") for name in kinds if name.endswith("weight_scale")}
    assert scaled
    assert all(kinds[name] == "I8" for name in scaled)
    assert sum(kind == "I8" for kind in kinds.values()) == len(scaled)


def test_it_is_served_in_int8_or_not_at_all(written: tuple[Runner, Path]) -> None:
    _, target = written
    with Embedder(str(target)) as embedder:
        assert embedder.spec.dtype == "int8"
        assert np.isfinite(embedder.embed(["hello world"])).all()
    with pytest.raises(ModelError, match="serve it with --dtype int8, or the original"):
        Embedder(str(target), dtype="bfloat16")


def test_a_report_that_cannot_be_read_is_refused(written: tuple[Runner, Path]) -> None:
    _, target = written
    (target / REPORTS["int8"]).write_text("{}")
    with pytest.raises(ModelError, match="rebuild it with inlay quantize"):
        Embedder(str(target))


@pytest.mark.parametrize("zero_point", [0, 1, 255, 999, "x"])
def test_a_zero_point_that_cannot_be_is_refused(written: tuple[Runner, Path], zero_point: object) -> None:
    _, target = written
    report = json.loads((target / REPORTS["int8"]).read_text())
    report["zero_points"][min(report["zero_points"])] = zero_point
    (target / REPORTS["int8"]).write_text(json.dumps(report))
    with pytest.raises(ModelError, match="rebuild it with inlay quantize"):
        make(target)


def test_a_report_of_other_products_is_refused(written: tuple[Runner, Path]) -> None:
    _, target = written
    report = json.loads((target / REPORTS["int8"]).read_text())
    report["zero_points"]["layers.77.up"] = report["zero_points"].pop(min(report["zero_points"]))
    (target / REPORTS["int8"]).write_text(json.dumps(report))
    with pytest.raises(ModelError, match="not those of the model: rebuild it with inlay quantize"):
        make(target)


def test_without_its_report_an_int8_checkpoint_says_what_it_may_be(written: tuple[Runner, Path]) -> None:
    _, target = written
    (target / REPORTS["int8"]).unlink()
    with pytest.raises(ModelError, match=r"only inlay quantize's are supported"):
        make(target)


@needs_bytes
def test_the_verb_writes_a_directory_and_says_what_it_measured(tmp_path: Path) -> None:
    target = tmp_path / "mini"
    done = run_inlay("quantize", "demo", "-o", str(target))
    assert done.returncode == 0, done.stderr
    assert re.search(r"cosine to (bfloat16|float32): mean 0\.99", done.stdout)
    assert "of 24 products in int8" in done.stdout
    again = run_inlay("quantize", "demo", "-o", str(target))
    assert again.returncode == 1
    assert "is not empty: give a new directory" in again.stderr
    with Embedder(str(target)) as small, Embedder("demo", dtype="float32") as full:
        texts = ["a stone in a ring", "jewellery", "a railway timetable"]
        assert (small.embed(texts) * full.embed(texts)).sum(axis=1).min() > 0.995
    refused = run_inlay("quantize", str(target), "-o", str(tmp_path / "twice"))
    assert "is quantised already" in refused.stderr


def in_fp8(device: str) -> Choice:
    """Also on a processor, which the command line refuses, as it is slow there."""
    return Choice(torch.device(device), torch.bfloat16, "fp8", "asked for")


def check_fp8(path: Path, target: Path, device: str) -> None:
    sample = [sequence_of([1, 2, 3, number]) for number in range(8)]
    runner = Runner(read_spec(path, "x"), in_fp8(device), lambda: sample)
    runner.write_quantised(target, in_fp8(device))
    stored = Runner(read_spec(target, "x"), in_fp8(device))
    assert np.array_equal(run_packed(stored, LISTS), run_packed(runner, LISTS))
    assert (stored.report, stored.spec.dtype) == (None, "fp8")
    with safe_open(target / "model.safetensors", "pt") as opened:
        kinds = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    scaled = [name.removesuffix("_scale") for name in kinds if name.endswith("weight_scale")]
    assert scaled
    assert {kinds[name] for name in scaled} == {"F8_E4M3"}
    with pytest.raises(ModelError, match="is an fp8 checkpoint: serve it with --dtype fp8, or the original"):
        Runner(read_spec(target, "x"), choose(device.split(":")[0], "bfloat16"))


@pytest.mark.parametrize("family", ["qwen3", "bert"])
def test_fp8_is_stored_to_the_bit(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(runner_module, "FP8_COSINE", 0.5)  # random weights are no measure of it
    check_fp8(checkpoint(family), tmp_path / "fp8", "cpu")
    with pytest.raises(ConfigError, match="or the original of a checkpoint that is stored in fp8"):
        Embedder(str(tmp_path / "fp8"), device="cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["qwen3", "bert"])
def test_a_gpu_stores_fp8_to_the_bit(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(runner_module, "FP8_COSINE", 0.5)
    check_fp8(checkpoint(family), tmp_path / "fp8", "cuda:0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dtype", "bfloat16"], "is no quantisation: use int8 (the default), or fp8"),
        (["--dtype", "fp8", "--device", "cpu"], "needs an NVIDIA GPU from sm89 on"),
    ],
)
def test_the_verb_refuses_other_dtypes(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run_inlay("quantize", "demo", "-o", str(tmp_path / "x"), *arguments)
    assert done.returncode == 2
    assert message in done.stderr
