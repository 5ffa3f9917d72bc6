"""What every contestant's process does: waits for a row, runs it once on new token ids, says how long it took.

Rows come as BATCHxLENGTH on standard input; `ready` and seconds go to standard output, one a line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np


def answer(run: Callable[[list[list[int]]], object], vocab_rows: int) -> None:
    """Serve rows until the input ends; `run` embeds lists of token ids and returns when it is done."""
    generator = np.random.default_rng()
    say("ready")
    for line in sys.stdin:
        batch, length = (int(number) for number in line.split("x"))
        ids = generator.integers(5, vocab_rows - 5, (batch, length)).tolist()
        began = time.perf_counter()
        run(ids)
        say(str(time.perf_counter() - began))


def say(line: str) -> None:
    sys.__stdout__.write(line + "\n")
    sys.__stdout__.flush()
