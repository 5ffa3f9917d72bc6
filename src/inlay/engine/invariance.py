"""The same bits for a text whatever runs beside it, on a GPU.

In: a runner. Out: settings of torch's products, and the sizes of batches for which a text's bits still differ. Inlay's
own kernels sum in an order that a text alone decides; what differs is how cuBLAS splits a product's sum for few rows.
The settings are the process's, and must be made before its first product.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import torch

from inlay.engine.staging import TOKENS
from inlay.types import IntArray

WORKSPACES = {"CUBLAS_WORKSPACE_CONFIG": ":16:8", "CUBLASLT_WORKSPACE_SIZE": "1"}  # with no room to split a sum
TEXT_TOKENS = 16  # of which every size is a multiple
MOST_TEXTS = 256  # in one batch

Run = Callable[[list[IntArray]], list[bytes | None]]  # texts → the payload of each, in one batch


def forbid_split_sums() -> None:
    """From here on no product is split along its sum."""
    os.environ.update(WORKSPACES)
    torch.backends.cuda.preferred_blas_library("cublaslt")  # the other knows no such thing
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = (False, False)  # the second: split-K
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = (False, False)


def sizes_that_differ(run: Run, vocab_rows: int, max_batch_tokens: int) -> list[int]:
    """Tokens of the batches in which a text has other bits than alone; none where all is well."""
    generator = np.random.default_rng(0)
    text = generator.integers(0, vocab_rows, TEXT_TOKENS)
    alone = run([text])[0]
    differing = []
    for tokens in (size for size in TOKENS if 2 * TEXT_TOKENS <= size <= max_batch_tokens):
        length = max(TEXT_TOKENS, tokens // MOST_TEXTS)
        others = generator.integers(0, vocab_rows, (tokens // length - 1, length))
        if run([text, *others])[0] != alone:
            differing.append(tokens)
    return differing
