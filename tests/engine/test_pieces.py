"""A long input in pieces gives the vector that it gives whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from running import collected, make_runner, sequence_of

from inlay.engine import pieces
from inlay.engine.batch import pack
from inlay.engine.device import choose
from inlay.engine.pieces import FEWEST_TOKENS, MOST_TOKENS, PIECE_SECONDS, PieceDriver, PieceSizer
from inlay.engine.runner import Runner
from inlay.models.spec import read_spec
from inlay.ops import native
from inlay.ops.int8 import can_multiply_bytes
from inlay.ops.linear import PanelProduct
from inlay.ops.native import load_kernels
from inlay.types import FloatArray

LONG = np.random.default_rng(0).integers(0, 100, 1500).tolist()


def in_pieces(runner: Runner, ids: list[int]) -> tuple[FloatArray, int]:
    run = runner.launch_in_pieces(pack([sequence_of(ids)]))
    count = 0
    while True:
        try:
            next(run)
            count += 1
        except StopIteration as finished:
            return collected(runner, finished.value), count


@pytest.mark.parametrize("has_kernels", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pieces_give_what_the_whole_gives(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, dtype: str, has_kernels: bool
) -> None:
    if not has_kernels:
        monkeypatch.setattr(native, "load_kernels", lambda: None)
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 0.0)
    runner = make_runner(checkpoint("qwen3"), dtype)
    whole = collected(runner, runner.launch(pack([sequence_of(LONG)])))
    found, count = in_pieces(runner, LONG)
    assert count > len(runner._model.layers) * 1000 / FEWEST_TOKENS
    cosine = (whole * found).sum() / np.linalg.norm(whole) / np.linalg.norm(found)
    assert cosine > (0.999999 if dtype == "float32" else 0.9999)


@pytest.mark.skipif(not can_multiply_bytes(), reason="there is no product of bytes")
def test_in_int8_the_bits_are_the_same(checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sample = [sequence_of([1, 2, 3, number]) for number in range(8)]
    runner = Runner(read_spec(checkpoint("qwen3"), "x"), choose("cpu", "int8"), lambda: sample, 0.9)
    whole = collected(runner, runner.launch(pack([sequence_of(LONG)])))
    for seconds in (1.0, 0.0, 1e-4):  # pieces of other sizes each time
        monkeypatch.setattr(pieces, "PIECE_SECONDS", seconds)
        assert np.array_equal(in_pieces(runner, LONG)[0], whole)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_what_a_layer_adds_keeps_its_own_bias(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """Of a family whose layers end in a product with a bias, another in each."""
    if dtype == "int8" and not can_multiply_bytes():
        pytest.skip("there is no product of bytes")
    sample = [sequence_of([1, 2, 3, number]) for number in range(8)]
    runner = Runner(read_spec(checkpoint("qwen3"), "x"), choose("cpu", dtype), lambda: sample, 0.9)
    torch.manual_seed(0)
    for layer in runner._model.layers:
        product = layer.mlp.down.product
        is_plain = not isinstance(product, PanelProduct) and not product.takes.is_bytes  # torch's own wants its dtype
        product._bias = torch.randn(64).to(product.takes.dtype if is_plain else torch.float32)
    monkeypatch.setattr(pieces, "PIECE_SECONDS", 0.0)
    whole = collected(runner, runner.launch(pack([sequence_of(LONG)])))
    found, _ = in_pieces(runner, LONG)
    cosine = (whole * found).sum() / np.linalg.norm(whole) / np.linalg.norm(found)
    assert cosine > (0.999999 if dtype == "float32" else 0.9999)


def test_only_a_lone_long_input_of_a_causal_model_runs_in_pieces(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PieceDriver, "longest_whole", 1000)
    causal, other = make_runner(checkpoint("qwen3")), make_runner(checkpoint("bert"))
    long, short = sequence_of(LONG), sequence_of([1, 2])
    assert causal.is_divisible(pack([long]))
    assert not causal.is_divisible(pack([short]))
    assert not causal.is_divisible(pack([short, long]))
    assert not other.is_divisible(pack([long]))


@given(st.integers(1, 40_000), st.floats(1e-8, 1e-2), st.floats(100, 10_000))
def test_spans_cover_an_input_once_in_pieces_of_bounded_size_and_time(
    length: int, seconds: float, even_length: float
) -> None:
    sizer = PieceSizer(even_length)
    sizer._seconds_per_token, sizer._seconds_per_pair = seconds, seconds / even_length
    spans = list(sizer.spans(length))
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert spans[-1][1] == length
    for start, end in spans:
        assert end - start <= MOST_TOKENS
        takes = (end - start) * seconds * (1 + start / even_length)
        assert takes <= PIECE_SECONDS * 1.001 or end - start <= FEWEST_TOKENS


def test_a_piece_teaches_what_the_next_may_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    sizer = PieceSizer(1e9)
    assert next(sizer.spans(10_000)) == (0, 256)
    with sizer.timing(0, 256):
        pass
    assert next(sizer.spans(10_000)) == (0, FEWEST_TOKENS)  # a second for 256: even the fewest take more than asked


def test_every_input_begins_with_pieces_of_the_time_asked_for_whatever_attention_costs(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose attention costs four times the guess; the last layer runs keys and values alone."""
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    sizer = PieceSizer(4000.0)
    taken: list[float] = []

    def run(start: int, end: int, share: float) -> None:
        nonlocal now
        seconds = share * (end - start) * 1e-4 * (1 + (start + end) / 2 / 1000)
        taken.append(seconds)
        now += seconds

    for number in range(4):
        del taken[:]
        for _ in range(5):
            for start, end in sizer.spans(16_000):
                with sizer.timing(start, end):
                    run(start, end, 1.0)
            if number == 0:
                continue
            assert max(taken) <= 1.5 * PIECE_SECONDS
    runner = make_runner(checkpoint("qwen3"))
    timed: list[tuple[int, int]] = []
    timing = runner._pieces.sizer.timing
    monkeypatch.setattr(
        runner._pieces.sizer, "timing", lambda start, end: timed.append((start, end)) or timing(start, end)
    )
    in_pieces(runner, LONG)
    layers = len(runner._model.layers)
    assert sum(end - start for start, end in timed) == (layers - 1) * len(LONG)


def test_what_threads_keep_of_a_long_input_goes_with_it() -> None:
    """In a process of its own: keys and values of 300,000 tokens are packed for attention."""
    program = """
import re
from pathlib import Path
import torch
from inlay.engine.allocator import give_back_freed_memory
from inlay.ops.attention import attention
from inlay.ops.layout import Layout
from inlay.ops.linear import PanelProduct
from inlay.ops.native import load_kernels
import numpy as np
resident = lambda: int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10
layout = lambda n: Layout.of(np.array([0, n]), torch.device("cpu"))
k = torch.randn(300_000, 1, 64)
attention(torch.randn(1, 1, 64), k[:99], k[:99], layout(1), layout(99), is_causal=True)
before = resident()
attention(torch.randn(1, 1, 64), k, k, layout(1), layout(300_000), is_causal=True)
kept = resident() - before
load_kernels().release_memory()
give_back_freed_memory()
print(kept, resident() - before)
"""
    if load_kernels() is None:
        pytest.skip("there are no compiled kernels")
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    kept, left = map(int, done.stdout.split())
    assert kept > 100
    assert left < 20
