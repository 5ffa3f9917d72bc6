"""Pairs of texts with the similarity that people gave them: Spearman's correlation of the cosines with it.

In: a csv or tsv file as STS has it. Out: pairs, and a score of their vectors. Knows no model.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from inlay.errors import ConfigError
from inlay.types import FloatArray

NAMES = (("sentence1", "sentence2", "score"), ("text1", "text2", "label"), ("sentence_a", "sentence_b", "score"))


@dataclass(frozen=True, slots=True)
class Similarity:
    """Pairs, and what people said of each."""

    METRICS: ClassVar = ("Spearman",)
    name: str
    first: list[str]
    second: list[str]
    scores: list[float]

    def texts(self) -> dict[str | None, list[str]]:
        """What is to be embedded, by the prompt that it gets."""
        return {None: [*self.first, *self.second]}

    def score(self, vectors: Mapping[str | None, FloatArray]) -> dict[str, float]:
        """Of vectors in the order of the texts, of unit length."""
        first, second = np.split(vectors[None], 2)
        return {"Spearman": spearman((first * second).sum(axis=1), np.array(self.scores))}


def read_similarity(path: Path) -> Similarity:
    """A file of three columns, with a line of their names or without; `ConfigError` says where it has none."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    places = (0, 1, 2)
    named = [name.strip().lower() for name in lines[0]] if lines else []
    for names in NAMES:
        if set(names) <= set(named):
            places = (named.index(names[0]), named.index(names[1]), named.index(names[2]))
            lines = lines[1:]
            break
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append((line[places[0]], line[places[1]], float(line[places[2]])))
        except (IndexError, ValueError) as error:
            raise ConfigError(
                f"{path}: row {number} is not a text, a text and a number (columns {', '.join(NAMES[0])})"
            ) from error
    if len(rows) < 2:
        raise ConfigError(f"{path} has no pairs to compare: write two texts and a number in each row")
    first, second, scores = zip(*rows, strict=True)
    return Similarity(path.stem, list(first), list(second), list(scores))


def spearman(found: npt.NDArray[Any], given: npt.NDArray[Any]) -> float:
    """Pearson's correlation of the ranks, equals sharing the mean of theirs; 0 where all are equal."""
    ranks = [_ranks_of(values) - (len(values) - 1) / 2 for values in (found, given)]
    norm = np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
    return float((ranks[0] * ranks[1]).sum() / norm) if norm else 0.0


def _ranks_of(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2)[places].astype(np.float64)
