"""One model in one dtype, measured on sets of texts in a process of its own: how good, how fast, how large.

In: a model, its arguments, sets and dimensions. Out: a row for each number of dimensions. Vectors of fewer dimensions
come from the cache, so a text is computed once. Speed is that of the first pass, memory the most that the process took.
"""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

import numpy as np

from inlay.errors import ConfigError, InlayError
from inlay.types import Failure, FloatArray

CACHE = "memory://4GiB"


class EvaluationSet(Protocol):
    """Texts whose answers are known."""

    @property
    def name(self) -> str: ...

    def texts(self) -> dict[str | None, list[str]]:
        """What is to be embedded, by the prompt that it gets."""
        ...

    def score(self, vectors: Mapping[str | None, FloatArray]) -> dict[str, float]:
        """By the name of the metric."""
        ...


def measure(
    model: str, arguments: Mapping[str, Any], sets: Sequence[EvaluationSet], dimensions: Sequence[int]
) -> list[dict[str, Any]]:
    """A row for each number of dimensions (none: the model's own); `ConfigError` where the model cannot be measured."""
    spawn = multiprocessing.get_context("spawn")  # torch does not survive a fork
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        try:
            told = process.submit(_measure, model, dict(arguments), list(sets), list(dimensions)).result()
        except BrokenProcessPool as error:
            raise ConfigError(
                f"{model} in {arguments.get('dtype')} ended its process: is there memory for it?"
            ) from error
    if isinstance(told, Failure):
        raise ConfigError(f"{model}: {told.message}")
    return told


def _measure(
    model: str, arguments: dict[str, Any], sets: list[EvaluationSet], dimensions: list[int]
) -> list[dict[str, Any]] | Failure:
    from inlay.bench.process import peak_bytes
    from inlay.library.embedder import Embedder

    warnings.simplefilter("ignore", UserWarning)  # that a model was not trained to be cut: what that costs is measured
    try:
        began = time.monotonic()
        with Embedder(model, **{**arguments, "cache": CACHE}) as embedder:
            about = {"model": embedder.spec.name, "dtype": embedder.spec.dtype, "load_s": time.monotonic() - began}
            rows = [
                {**about, "dimensions": number or embedder.spec.width, **_scores_of(embedder, sets, number)}
                for number in sorted({*dimensions} or {0}, reverse=True)
            ]
        speeds = [row["tokens_per_s"] for row in rows]
        return [{**row, "tokens_per_s": speeds[0], "peak_bytes": peak_bytes()} for row in rows]
    except InlayError as error:
        return Failure.of(error)


def _scores_of(embedder: Any, sets: list[EvaluationSet], number: int) -> dict[str, Any]:  # noqa: ANN401 - torch is late
    """The scores on each set, and the tokens a second of those texts that no cache has."""
    num_tokens, seconds = 0, 0.0
    scores: dict[str, float] = {}
    for one in sets:
        vectors = {}
        for prompt, texts in one.texts().items():
            began = time.monotonic()
            results = embedder.embed_rows(
                texts, prompt=prompt, truncate="end", **({"dimensions": number} if number else {})
            )
            seconds += time.monotonic() - began
            num_tokens += sum(results.num_tokens)
            for place, error in results.errors.items():
                raise type(error)(f"{one.name}: text {place} {error.message}")
            vectors[prompt] = _unit(results.vectors)
        scores |= {f"{one.name} {metric}": value for metric, value in one.score(vectors).items()}
    return {"scores": scores, "tokens_per_s": num_tokens / max(seconds, 1e-9)}


def _unit(vectors: FloatArray) -> FloatArray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: FloatArray = vectors / np.maximum(norms, 1e-12)
    return unit
