"""A short text from a recording has the bits that the model gives it, whatever ran before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import STATIC
from hypothesis import given, settings
from hypothesis import strategies as st
from running import collected, make_runner, sequence_of

from inlay.engine.batch import pack
from inlay.engine.device import choose
from inlay.engine.runner import Runner
from inlay.engine.short_pass import LONGEST, MOST_FAILURES, ShortPass
from inlay.models.plan import Plan
from inlay.models.spec import read_spec
from inlay.ops.int8 import can_multiply_bytes
from inlay.ops.native import load_kernels

pytestmark = pytest.mark.skipif(
    (kernels := load_kernels()) is None or kernels.on_torch_threads, reason="products are torch's own"
)
DTYPES = ["float32", "bfloat16", *(["int8"] if can_multiply_bytes() else [])]
SAMPLE = [sequence_of(list(range(5, 5 + length))) for length in (3, 9, 20, 33)]


def vector_of(runner: Runner, ids: list[int]) -> bytes:
    return collected(runner, runner.launch(pack([sequence_of(ids)]))).tobytes()


def plain_vector_of(runner: Runner, ids: list[int]) -> bytes:
    short = runner._pass
    runner._pass = runner._model
    try:
        return vector_of(runner, ids)
    finally:
        runner._pass = short


SCALED_BY_TORCH = ("gemma3_text",)  # families whose pass is more than kernels: the words' rows are multiplied


def short_pass_of(runner: Runner) -> ShortPass:
    assert isinstance(runner._pass, ShortPass)
    return runner._pass


@pytest.mark.parametrize("dtype", DTYPES)
def test_recorded_and_plain_passes_give_the_same_bits(
    checkpoint: Callable[[str], Path], family: str, dtype: str
) -> None:
    if family == STATIC and dtype == "int8":
        pytest.skip("it has no products")
    spec = read_spec(checkpoint(family), family)
    runner = Runner(spec, choose("cpu", dtype), lambda: SAMPLE, least_cosine=0.0)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.tuples(st.integers(1, LONGEST + 3), st.integers(0, 2**32)), min_size=1, max_size=6))
    def check(texts: list[tuple[int, int]]) -> None:
        for length, seed in texts:
            ids = np.random.default_rng(seed).integers(5, 60, length).tolist()
            assert vector_of(runner, ids) == plain_vector_of(runner, ids), length

    check()
    lengths = [length for length, *_ in short_pass_of(runner)._recorded]
    assert bool(lengths) is (family not in SCALED_BY_TORCH)
    assert max(lengths, default=0) <= LONGEST


def test_a_pass_that_is_more_than_kernels_runs_as_it_is(checkpoint: Callable[[str], Path]) -> None:
    runner = make_runner(checkpoint("bert"), "float32")
    model, calls = runner._model, []

    def doubled(plan: Plan) -> torch.Tensor:
        calls.append(len(plan.ids))
        return model(plan) * 2

    short = ShortPass(doubled, short_pass_of(runner)._kernels)  # type: ignore[arg-type]
    runner._pass = short
    ids = list(range(5, 14))
    doubles = [np.frombuffer(vector_of(runner, ids), dtype=np.float32) for _ in range(MOST_FAILURES + 2)]
    for double in doubles:
        np.testing.assert_array_equal(double, np.frombuffer(plain_vector_of(runner, ids), dtype=np.float32) * 2)
    assert len(calls) == MOST_FAILURES + 2
    assert not short._recorded


def test_an_id_out_of_range_fails_alone(checkpoint: Callable[[str], Path]) -> None:
    runner = make_runner(checkpoint("bert"), "float32")
    good = list(range(5, 14))
    expected = vector_of(runner, good)
    with pytest.raises(IndexError):
        vector_of(runner, [*good[:-1], 10**6])
    assert vector_of(runner, good) == expected


def test_the_first_short_text_does_not_wait_for_torchs_compiler_to_be_imported() -> None:
    program = (
        "import sys\nfrom inlay import Embedder\n"
        "with Embedder('demo') as embedder:\n    embedder.embed(['one short text'])\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
