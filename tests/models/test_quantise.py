"""int8 is measured on the weights at hand: on real ones, and on ones that are made to break it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from running import make_runner, run_alone, run_packed, sequence_of
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr

from inlay import Embedder
from inlay.bench.shapes import SHAPES, make_checkpoint
from inlay.engine import runner
from inlay.engine.batch import Batch, Sequence
from inlay.engine.device import Choice, choose
from inlay.engine.runner import Runner
from inlay.errors import ConfigError, ModelError
from inlay.models.building import build_model
from inlay.models.spec import read_spec
from inlay.models.weights import weight_files
from inlay.ops import native
from inlay.ops.int8 import can_multiply_bytes, make_int8_product
from inlay.ops.processor import has_vnni

needs_vnni = pytest.mark.skipif(not can_multiply_bytes(), reason="there is no product of bytes")
SMALL_QWEN3 = {
    **SHAPES["qwen3-embedding-0.6b"],
    "vocab_size": 160,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}


def lists_of(seed: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 160, length).tolist() for length in generator.integers(5, 60, 20)]


def sample() -> list[Sequence]:
    return [sequence_of(ids) for ids in lists_of(1)]


def make_int8(path: Path, least_cosine: float = 0.999) -> Runner:
    return Runner(read_spec(path, "x"), choose("cpu", "int8"), sample, least_cosine)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Massive activations in two channels of two layers, as trained Qwen3 models have them.

    Two inner channels of the MLP grow by a factor of 3,600 and write to one residual channel each, which later
    norms turn down. The other channels matter as before, and a scale for the whole row loses them.
    """
    path = tmp_path_factory.mktemp("planted")
    make_checkpoint(path, SMALL_QWEN3)
    (file,) = path.glob("model-*.safetensors")
    weights = load_file(file)
    for name, weight in weights.items():
        if name.endswith("down_proj.weight"):
            weight *= 1.5
    for inner, residual in ((7, 3), (100, 40)):
        for layer in (0, 1):
            for name in ("up_proj", "gate_proj"):
                weights[f"layers.{layer}.mlp.{name}.weight"][inner] *= 60
            down = weights[f"layers.{layer}.mlp.down_proj.weight"]
            kept = down[residual, inner].clone()
            down[:, inner] = 0
            down[residual, inner] = kept
        for name in (
            "norm",
            *(f"layers.{n}.{kind}_layernorm" for n in (1, 2, 3) for kind in ("input", "post_attention")),
        ):
            weights[f"{name}.weight"][residual] = 1e-4
    save_file(weights, file, {"format": "pt"})
    return path


@needs_vnni
def test_massive_activations_ruin_plain_int8_and_not_ours(planted: Path) -> None:
    half, lists = make_runner(planted, "bfloat16"), lists_of(2)
    expected = run_packed(half, lists)
    half._model = build_model(half.spec, weight_files(planted), torch.bfloat16, torch.device("cpu"))
    half._model.prepare(lambda name, weights: make_int8_product(weights, torch.bfloat16))
    half._pass = half._model  # products of before would be in its recordings
    plain = (run_packed(half, lists) * expected).sum(axis=1)
    ours = make_int8(planted)
    found = (run_packed(ours, lists) * expected).sum(axis=1)
    assert plain.mean() < 0.9
    assert found.mean() >= 0.999
    assert {"layers.0.mlp.down", "layers.1.mlp.down"} <= set(ours.report.kept)
    assert len(ours.report.kept) < len(ours.report.errors) / 2


@needs_vnni
def test_the_report_says_what_was_measured_and_the_fingerprint_holds_it(
    planted: Path, checkpoint: Callable[[str], Path]
) -> None:
    strict, lax = make_int8(planted), make_int8(planted, 0.99)
    assert strict.report.mean_cosine >= 0.999
    assert strict.report.worst_cosine <= strict.report.mean_cosine
    assert len(lax.report.kept) <= len(strict.report.kept)
    assert len(strict.report.errors) == 4 * 4
    prints = {make_runner(planted, "bfloat16").spec.fingerprint, strict.spec.fingerprint}
    assert len(prints) == 2
    assert (strict.report.kept == lax.report.kept) == (strict.spec.fingerprint == lax.spec.fingerprint)
    assert make_int8(planted).spec.fingerprint == strict.spec.fingerprint
    assert strict.spec.dtype == "int8"


@needs_vnni
def test_a_bound_that_cannot_be_met_is_refused(planted: Path) -> None:
    with pytest.raises(ModelError, match=r"999999 is asked for: use --dtype bfloat16, or .* --int8-cosine"):
        make_int8(planted, 0.999999)


@needs_vnni
@pytest.mark.parametrize("family", ["qwen3", "bert"])
def test_int8_gives_the_same_bits_alone_and_in_any_batch(checkpoint: Callable[[str], Path], family: str) -> None:
    runner, lists = make_int8(checkpoint(family), 0.9), lists_of(3)
    alone = run_alone(runner, lists)
    assert np.array_equal(run_packed(runner, lists), alone)
    assert np.array_equal(run_packed(runner, lists[::-1]), alone[::-1])


@needs_vnni
def test_on_real_weights_int8_is_as_good_as_float32(shared: Path) -> None:
    """STS-B dev: Spearman within 0.1 point, mean cosine at least 0.999."""
    rows = list(csv.reader((shared / "stsb-dev" / "stsb-en-dev.csv").read_text().splitlines()))
    texts, scores = [row[0] for row in rows] + [row[1] for row in rows], [float(row[2]) for row in rows]
    with Embedder("demo", dtype="float32") as embedder:
        full = embedder.embed(texts)
    with Embedder("demo", dtype="int8") as embedder:
        small = embedder.embed(texts)

    def spearman(vectors: np.ndarray) -> float:
        return float(spearmanr((vectors[: len(rows)] * vectors[len(rows) :]).sum(axis=1), scores).statistic)

    assert abs(spearman(small) - spearman(full)) < 0.001
    assert (small * full).sum(axis=1).mean() >= 0.999


def test_int8_is_refused_where_it_would_be_wrong_or_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    monkeypatch.setattr(native, "load_kernels", lambda: None)
    with pytest.raises(ConfigError, match="VNNI"):
        choose("cpu", "int8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="--device cpu"):
        choose("cuda", "int8")


@pytest.mark.skipif(not has_vnni(), reason="torch's product of bytes is not exact on this processor")
def test_vectors_of_other_kernels_have_another_fingerprint(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other kernels round other numbers to another byte, so their int8 vectors differ by more than the last bits."""
    ours = make_int8(planted)
    monkeypatch.setattr(native, "load_kernels", lambda: None)
    torchs = make_int8(planted)
    assert ours.spec.fingerprint != torchs.spec.fingerprint


def test_bfloat16_computed_as_float32_has_another_fingerprint(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a processor does not round what products take, so its vectors differ by more than the last bits."""
    spec, bfloat16 = read_spec(planted, "planted"), choose("cpu", "bfloat16")

    def fingerprint_where(takes_float_rows: bool) -> str:
        monkeypatch.setattr(runner, "takes_float_rows", lambda dtype: takes_float_rows)
        return Runner(spec, bfloat16).spec.fingerprint

    assert fingerprint_where(True) != fingerprint_where(False)


def test_fp8_is_measured_and_what_misses_stays_out_of_it(demo_path: Path) -> None:
    lists = [list(range(101 + n, 130 + 2 * n)) for n in range(8)]
    sequences = [sequence_of(ids, number) for number, ids in enumerate(lists)]
    choice = Choice(torch.device("cpu"), torch.bfloat16, "fp8", "for the test")
    ours = Runner(read_spec(demo_path, "demo"), choice, lambda: sequences)
    assert ours.report is not None
    assert 0.997 <= ours.report.mean_cosine < 0.99999, "nothing was rounded"
    assert ours.report.worst_cosine >= 0.98
    assert len(ours.report.kept) < len(ours.report.errors) / 2
    full = make_runner(demo_path, "bfloat16")
    assert (run_packed(ours, lists) * run_packed(full, lists)).sum(axis=1).mean() >= 0.997
    assert ours.spec.fingerprint != full.spec.fingerprint


def test_nothing_runs_behind_what_other_products_gave_while_it_is_measured(tmp_path: Path) -> None:
    """The sample comes again and again, each time with other products."""
    make_checkpoint(tmp_path, SMALL_QWEN3)
    sequences = [sequence_of(list(range(5 + n, 40 + n)), n) for n in range(6)]
    batches: list[int] = []
    whole = Runner.launch

    def launch(self: Runner, batch: Batch) -> object:
        batches.append(batch.num_tokens)
        assert self._planner._prefixes is None
        return whole(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "launch", launch)
        ours = Runner(read_spec(tmp_path, "small"), choose("cpu", "int8"), lambda: sequences, 0.9)
    assert len(batches) >= 2
    assert ours._planner._prefixes is not None
    assert not ours._planner._prefixes._kept


@pytest.mark.gpu
def test_fp8_on_a_gpu_is_near_bfloat16(checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "FP8_COSINE", 0.9)  # random weights are no measure of it
    lists = [list(range(10 + n, 30 + 2 * n)) for n in range(8)]
    sequences = [sequence_of(ids, number) for number, ids in enumerate(lists)]
    path = checkpoint("qwen3")
    ours = Runner(read_spec(path, "tiny"), choose("cuda", "fp8"), lambda: sequences)
    assert ours.report is not None
    assert not ours.report.kept
    full = make_runner(path, "bfloat16", "cuda")
    assert (run_packed(ours, lists) * run_packed(full, lists)).sum(axis=1).mean() >= 0.98
