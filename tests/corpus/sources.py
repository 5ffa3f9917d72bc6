"""A source whose vectors are known, for corpora without a model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from fakes import SPEC, WIDTH

from inlay import Embedder
from inlay.corpus.files.part import TextVector
from inlay.corpus.recipe import Recipe
from inlay.errors import InvalidInput
from inlay.precompute.ingestion import Columns, Embedded
from inlay.precompute.input_rows import read_rows
from inlay.precompute.run import Outcome, precompute
from inlay.types import FloatArray, ModelSpec

RECIPE = Recipe("fake", SPEC.fingerprint, WIDTH, SPEC.max_tokens, SPEC.dtype, "f32")


def recipe_of(embedder: Embedder, outputs: tuple[str, ...]) -> Recipe:
    """What a corpus of an embedder's vectors is made with."""
    spec = embedder.spec
    return Recipe(str(spec.path), spec.fingerprint, spec.width, spec.max_tokens, spec.dtype, "f32", outputs=outputs)


class Killed(BaseException):
    """The process ends here."""


def vector_of(text: str) -> FloatArray:
    seed = int.from_bytes(text.encode(), "little") % (1 << 32)
    return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)


class FakeSource:
    """Fails texts that begin with `bad`; is killed at a text of one's choice."""

    def __init__(self, killed_at: int | None = None, num_parallel: int = 1) -> None:
        self.num_parallel = num_parallel
        self.texts: list[str] = []
        self._killed_at = killed_at

    @property
    def spec(self) -> ModelSpec:
        return SPEC

    def embed_texts(self, texts: list[str], recipe: Recipe) -> list[Embedded]:
        self.texts += texts
        if self._killed_at is not None and len(self.texts) > self._killed_at:
            raise Killed
        return [
            InvalidInput("is bad") if text.startswith("bad") else TextVector(vector_of(text), len(text), False)
            for text in texts
        ]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_corpus(
    directory: Path,
    file: Path,
    source: FakeSource | None = None,
    *,
    recipe: Recipe = RECIPE,
    is_append: bool = False,
    keep: tuple[str, ...] | None = None,
) -> Outcome:
    """A corpus of a file, with the column `lang` where the file has one."""
    if keep is None:
        keep = ("lang",) if b'"lang"' in file.read_bytes() else ()
    columns = Columns("text", "id", keep)
    rows = read_rows(str(file), "auto", columns.text)
    return precompute(directory, rows, str(file), columns, source or FakeSource(), recipe, is_append=is_append)
