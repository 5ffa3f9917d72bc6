"""A model in this process as the source of a corpus's vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.types import Entry

if TYPE_CHECKING:
    from inlay.corpus.manifest import Order
    from inlay.library.embedder import Embedder
    from inlay.precompute.ingestion import Answer
    from inlay.types import ModelSpec


class LocalSource:
    """Canonical vectors from an `Embedder`."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def spec(self) -> ModelSpec:
        return self._embedder.spec

    def embed_entries(self, texts: list[str], order: Order) -> list[Answer]:
        """For each text its canonical vector with its tokens, or the reason why there is none."""
        results = self._embedder.embed_rows(
            texts, prompt=order.prompt, instruction=order.instruction, truncate=order.truncate, normalize=False
        )
        answers: list[Answer | None] = [results.errors.get(index) for index in range(len(texts))]
        cut = set(results.truncated)
        for row, vector, num_tokens in zip(results.rows, results.vectors, results.num_tokens, strict=True):
            answers[row] = Entry(vector, num_tokens, row in cut)
        return [answer for answer in answers if answer is not None]
