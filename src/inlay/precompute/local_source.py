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

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def spec(self) -> ModelSpec:
        return self._embedder.spec

    def embed_texts(self, texts: list[str], recipe: Recipe) -> list[Embedded]:
        """For each text its canonical vector with its tokens, or the reason why there is none."""
        results = self._embedder.embed_rows(
            texts, prompt=recipe.prompt, instruction=recipe.instruction, truncate=recipe.truncate, normalize=False
        )
        answers: list[Embedded | None] = [results.errors.get(index) for index in range(len(texts))]
        cut = set(results.truncated)
        for row, vector, num_tokens in zip(results.rows, results.vectors, results.num_tokens, strict=True):
            answers[row] = TextVector(vector, num_tokens, row in cut)
        return [answer for answer in answers if answer is not None]
