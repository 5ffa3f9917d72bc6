"""How much a batch takes, and how many threads tokenise: what is not asked for is chosen by the device and the cores.

In: a runner that has run, and the engine's settings. Out: budgets. A GPU's batches are timed here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np

from inlay.config import Settings
from inlay.engine.batch import Sequence, pack
from inlay.engine.runner import Runner
from inlay.types import IntArray

BATCH_TOKENS = {"cpu": 1024, "mps": 4096}  # enough rows for full speed, short enough to wait for
GPU_BATCH_SECONDS = 0.025  # what a batch of a GPU takes, as long as its tokens are within these
FEWEST_GPU_TOKENS, MOST_GPU_TOKENS = 2048, 16384
MEASURED_TOKENS, MEASURED_LENGTH, MEASURED_BATCHES = 8192, 256, 4

MakeSequence = Callable[[int, IntArray], Sequence]


def choose_budgets(runner: Runner, settings: Settings, sequence: MakeSequence) -> dict[str, int]:
    """What is not asked for is chosen by the device and the number of cores."""
    cores = os.cpu_count() or 2
    is_cuda = runner.device.type == "cuda"
    tokens = settings.max_batch_tokens or (
        _gpu_batch_tokens(runner, sequence) if is_cuda else BATCH_TOKENS[runner.device.type]
    )
    runner.size_pieces(max(tokens, FEWEST_GPU_TOKENS))
    threads = min(8, cores - 2) if is_cuda else min(4, cores // 2)
    return {"max_batch_tokens": tokens, "tokenizer_threads": settings.tokenizer_threads or max(1, threads)}


def _gpu_batch_tokens(runner: Runner, sequence: MakeSequence) -> int:
    """So many that a batch takes `GPU_BATCH_SECONDS`, by batches that are timed here."""
    length = min(MEASURED_LENGTH, runner.spec.max_tokens)
    generator, taken = np.random.default_rng(0), []
    for _ in range(MEASURED_BATCHES):
        lists = generator.integers(0, runner.spec.vocab_rows, (MEASURED_TOKENS // length, length))
        batch = pack([sequence(number, ids) for number, ids in enumerate(lists)])
        began = time.monotonic()
        runner.collect(runner.launch(batch))
        taken.append((time.monotonic() - began) / batch.num_tokens)
    tokens = int(GPU_BATCH_SECONDS / min(taken))
    return min(max(tokens // FEWEST_GPU_TOKENS * FEWEST_GPU_TOKENS, FEWEST_GPU_TOKENS), MOST_GPU_TOKENS)
