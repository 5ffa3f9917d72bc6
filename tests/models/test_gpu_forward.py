"""Whole models on the GPU's kernels, as a GPU runs them: staged, filled up, and with memory full of NaN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from running import collected, make_runner, run_packed, sequence_of
from torch import Tensor
from triton_interpreter import DEVICE, gpu_kernels

from inlay.engine import ranges
from inlay.engine.batch import Batch, pack
from inlay.engine.device import DTYPES
from inlay.engine.planning import make_arena
from inlay.engine.prefix import PrefixStore
from inlay.engine.ranges import RangeDriver
from inlay.engine.runner import Runner
from inlay.engine.staging import Staging
from inlay.models.forward import Decoder
from inlay.ops import dispatch, linear

LISTS = [[5, 6, 7], [9, 10, 11, 12, 13, 14, 15], [3, 4]]
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of rows that belong to no sequence
needs_no_gpu = pytest.mark.skipif(DEVICE.type == "cuda", reason="there is a GPU, where the same runs for real")


@pytest.fixture
def on_gpu_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = gpu_kernels()
    monkeypatch.setattr(dispatch, "native", SimpleNamespace(load_kernels=lambda: kernels))
    monkeypatch.setattr(linear, "native", SimpleNamespace(load_kernels=lambda: None))
    monkeypatch.setattr(linear, "can_pack", lambda weight: False)


def staged_runner(path: Path, dtype: str) -> Runner:
    runner = make_runner(path, dtype)
    runner._pass = runner._model
    planner, model = runner._planner, runner._model
    planner._staging, planner._prefixes = Staging(torch.device("cpu")), None
    if isinstance(model, Decoder):
        planner._arena = make_arena(model, DTYPES[dtype], torch.device("cpu"))
        planner._prefixes = PrefixStore(1, torch.device("cpu"), planner._arena)
    return runner


def run_in_pieces(runner: Runner, batch: Batch) -> tuple[np.ndarray, int]:
    """The vectors of a divisible batch, and how often others could have run meanwhile."""
    pieces, number = runner.launch_in_pieces(batch), 0
    while True:
        try:
            next(pieces)
        except StopIteration as finished:
            return collected(runner, finished.value), number
        number += 1


@needs_no_gpu
def test_every_family_on_the_kernels_gives_what_it_gives_on_a_processor(
    checkpoint: Callable[[str], Path], request: pytest.FixtureRequest, family: str
) -> None:
    expected = run_packed(make_runner(checkpoint(family)), LISTS)
    request.getfixturevalue("on_gpu_kernels")
    dtypes = {"float32": 0.999999, "bfloat16": 0.9999} if family in ("qwen3", "bert") else {"bfloat16": 0.999}
    for dtype, least in dtypes.items():
        found = run_packed(staged_runner(checkpoint(family), dtype), LISTS)
        assert (found * expected).sum(axis=1).min() > least, dtype


@needs_no_gpu
@pytest.mark.parametrize("name", ["qwen3", "bert"])
def test_a_batch_that_is_filled_up_has_the_same_bits(
    checkpoint: Callable[[str], Path], on_gpu_kernels: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = torch.empty

    def empty(*arguments: object, **more: object) -> Tensor:
        out = whole(*arguments, **more)
        return out.fill_(torch.nan) if out.is_floating_point() else out

    runner = staged_runner(checkpoint(name), "bfloat16")
    monkeypatch.setattr(torch, "empty", empty)
    filled = run_packed(runner, LISTS)
    monkeypatch.setattr("inlay.engine.staging.shape_for", lambda num_tokens, num_sequences: None)
    exact = run_packed(runner, LISTS)
    assert np.array_equal(filled, exact)


@needs_no_gpu
def test_what_is_kept_of_a_shared_prefix_gives_what_the_whole_gives(
    checkpoint: Callable[[str], Path], on_gpu_kernels: None
) -> None:
    instruction = list(range(10, 29))
    batches = [
        [[*instruction, 1, 2], [*instruction, 3], [7, 8]],  # found and kept
        [[*instruction, 4, 5, 6], [9, 8, 7, 6]],  # read where it lies
        [[*instruction[:17], 40, 41, 42], [*instruction, 5]],  # a part of it
    ]
    runner, plain = staged_runner(checkpoint("qwen3"), "bfloat16"), staged_runner(checkpoint("qwen3"), "bfloat16")
    plain._planner._prefixes = None
    for lists in batches:
        found, expected = run_packed(runner, lists), run_packed(plain, lists)
        assert (found * expected).sum(axis=1).min() > 0.9999
    assert [runner.cost(sequence_of([*instruction, 4])), runner.cost(sequence_of([1, 2, 3]))] == [1, 3]


@needs_no_gpu
def test_a_long_input_in_ranges_gives_what_the_whole_gives(
    checkpoint: Callable[[str], Path], on_gpu_kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "FEWEST_TOKENS", 64)
    runner = staged_runner(checkpoint("qwen3"), "bfloat16")
    batch = pack([sequence_of([number % 150 + 5 for number in range(150)])])
    expected = collected(runner, runner.launch(batch))
    driver = object.__new__(RangeDriver)  # its weights are products already
    driver.longest_whole, driver._even_length = 64, 1e9
    driver._model, driver._dtype = runner._model, torch.bfloat16
    runner._pieces = driver
    assert list(driver.spans(150)) == [(0, 64), (64, 128), (128, 150)]
    assert runner.is_divisible(batch)
    found, number = run_in_pieces(runner, batch)
    assert number == 2
    assert torch.cosine_similarity(torch.from_numpy(found), torch.from_numpy(expected)).min() > 0.9999


@pytest.mark.gpu
def test_a_long_input_in_ranges_on_a_gpu_gives_what_the_whole_gives(checkpoint: Callable[[str], Path]) -> None:
    runner = make_runner(checkpoint("qwen3"), "bfloat16", "cuda")
    batch = pack([sequence_of([number % 150 + 5 for number in range(2000)])])
    expected = collected(runner, runner.launch(batch))
    runner.size_pieces(600)
    found, number = run_in_pieces(runner, batch)
    assert number >= 2
    assert torch.cosine_similarity(torch.from_numpy(found), torch.from_numpy(expected)).min() > 0.999


@pytest.mark.gpu
def test_what_a_gpu_keeps_of_a_shared_prefix_gives_what_the_whole_gives(checkpoint: Callable[[str], Path]) -> None:
    instruction = list(range(10, 29))
    runner, plain = (make_runner(checkpoint("qwen3"), "bfloat16", "cuda") for _ in range(2))
    plain._planner._prefixes = None
    for number in range(3):
        lists = [[*instruction, number, other] for other in range(5)] + [[1, 2, 3]]
        assert (run_packed(runner, lists) * run_packed(plain, lists)).sum(axis=1).min() > 0.999
    assert runner.cost(sequence_of([*instruction, 4])) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_gpu_replays_what_it_launches(checkpoint: Callable[[str], Path], family: str, dtype: str) -> None:
    runner = make_runner(checkpoint(family), dtype, "cuda")
    replayed = run_packed(runner, LISTS)
    runner._pass = runner._model
    assert np.array_equal(replayed, run_packed(runner, LISTS))
