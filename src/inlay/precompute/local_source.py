"""A model in this process as the source of a corpus's vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.corpus.files.part import TextVector

if TYPE_CHECKING:
    from inlay.corpus.recipe import Recipe
    from inlay.library.embedder import Embedder
    from inlay.precompute.ingestion import Embedded
    from inlay.types import ModelSpec


class LocalSource:
    """Canonical vectors from an `Embedder`."""

    num_parallel = 1

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def spec(self) -> ModelSpec:
        return self._embedder.spec

    def embed_texts(self, texts: list[str], recipe: Recipe) -> list[Embedded]:
        """For each text its canonical vector with its tokens, or the reason why there is none."""
        results = self._embedder.embed_rows(
            texts,
            recipe.outputs,
            prompt=recipe.prompt,
            instruction=recipe.instruction,
            truncate=recipe.truncate,
            normalize=False,
        )
        answers: list[Embedded | None] = [results.errors.get(index) for index in range(len(texts))]
        cut = set(results.truncated)
        for place, (row, vector) in enumerate(zip(results.rows, results.vectors, strict=True)):
            others = {kind: arrays[place] for kind, arrays in results.others.items()}
            answers[row] = TextVector(vector, results.num_tokens[place], row in cut, others)
        return [answer for answer in answers if answer is not None]
