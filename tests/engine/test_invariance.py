"""--deterministic: what it looks for, and what it leaves out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from running import make_runner

from inlay.engine.device import choose
from inlay.engine.invariance import TEXT_TOKENS, sizes_that_differ
from inlay.engine.runner import Runner
from inlay.engine.staging import TOKENS
from inlay.models.spec import read_spec
from inlay.types import IntArray


@pytest.mark.parametrize("differing", [[], [96], [64, 1024]])
def test_the_sizes_in_which_a_text_has_other_bits_are_found(differing: list[int]) -> None:
    sizes = []

    def run(texts: list[IntArray]) -> list[bytes | None]:
        tokens = sum(map(len, texts))
        sizes.append(tokens)
        return [text.tobytes() + bytes([tokens in differing]) for text in texts]

    assert sizes_that_differ(run, 1000, 1024) == differing
    assert len(sizes) == 1 + sum(2 * TEXT_TOKENS <= size <= 1024 for size in TOKENS)


def test_nothing_runs_behind_what_is_kept_nor_in_pieces(checkpoint: Callable[[str], Path]) -> None:
    path = checkpoint("qwen3")
    runner = Runner(read_spec(path, "tiny"), choose("cpu", "float32"), is_deterministic=True)
    assert runner._planner._prefixes is None
    assert runner._pieces is None
    assert runner.spec.fingerprint != make_runner(path).spec.fingerprint


@pytest.mark.gpu
def test_a_gpu_gives_a_text_the_same_bits_in_any_batch(checkpoint: Callable[[str], Path]) -> None:
    """In a process of its own, as the settings are the process's."""
    import subprocess
    import sys

    code = f"""
import numpy as np
from pathlib import Path
from running import sequence_of
from inlay.engine.batch import pack
from inlay.engine.device import choose
from inlay.engine.invariance import forbid_split_sums, sizes_that_differ
from inlay.engine.runner import Runner
from inlay.models.spec import read_spec
forbid_split_sums()
path = Path({str(checkpoint("qwen3"))!r})
runner = Runner(read_spec(path, "tiny"), choose("cuda", "bfloat16"), is_deterministic=True)
def run(texts):
    batch = pack([sequence_of(list(map(int, text)), number) for number, text in enumerate(texts)])
    payloads = runner.collect(runner.launch(batch))["dense"]
    return [payloads[row] for _, row in sorted(zip([s.work.id for s in batch.sequences], batch.rows))]
assert sizes_that_differ(run, 160, 16384) == [], sizes_that_differ(run, 160, 16384)
"""
    where = {"PYTHONPATH": ":".join(sys.path)}
    import os

    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | where, cwd=Path(__file__).parents[1])
