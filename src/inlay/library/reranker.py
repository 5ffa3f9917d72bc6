"""The library's face for rerankers: `Reranker` for plain code, `AsyncReranker` for coroutines.

In: a query and documents. Out: the documents' places by their scores. Both run the same service as the server; see
`library.embedder`.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypedDict, Unpack

from inlay.errors import InlayError, InvalidInput
from inlay.library.runtime import EngineArguments, Runtime
from inlay.requests import LongDocuments, RankOptions, RankRequest, RankResult
from inlay.serving.shaping import best_first, sigmoid
from inlay.types import ModelSpec, Task


class RankArguments(TypedDict, total=False):
    """How documents are ranked."""

    top_n: int | None  # how many of the best to give; all by default
    instruction: str | None  # a task, for models that take one
    long_documents: str  # refuse (too long ones are errors), truncate or best_chunk
    raw_scores: bool  # the model's logits instead of their sigmoid


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document by its place in the list that was given."""

    index: int
    score: float  # from 0 to 1; the logit where raw scores were asked for


class Reranker:
    """Scores documents against queries with one model, in this process.

    `model` is a hub id or a directory; the other arguments are those of `EngineArguments`.

        with Reranker("BAAI/bge-reranker-v2-m3") as reranker:
            best = reranker.rank("what is panda?", ["hi", "The giant panda is a bear."], top_n=1)
    """

    def __init__(self, model: str, **arguments: Unpack[EngineArguments]) -> None:
        self._runtime = Runtime(model, arguments, Task.RANK)
        try:
            self._runtime.worker.wait_loaded()
        except InlayError:
            self._runtime.close()
            raise
        weakref.finalize(self, self._runtime.let_go)

    @property
    def spec(self) -> ModelSpec:
        """What is served: max tokens, dtype, fingerprint."""
        return self._runtime.worker.spec

    def rank(self, query: str, documents: Sequence[str], **arguments: Unpack[RankArguments]) -> list[Ranked]:
        """The documents by their scores, the best first.

        Raises the error of the first document that has no score, by its place (`documents[3] has 600 tokens, …`).
        """
        request = _request_of(query, documents, arguments)
        return _ranked(self._runtime.wait_for(self._runtime.rank(request)), arguments)

    def close(self) -> None:
        """Let the model go. Further calls raise `ShuttingDown`."""
        self._runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncReranker:
    """`Reranker` for coroutines: the same arguments, `await reranker.rank(...)`, `async with`.

    The constructor returns while the model is still loading; the first call waits for it.
    """

    def __init__(self, model: str, **arguments: Unpack[EngineArguments]) -> None:
        self._runtime = Runtime(model, arguments, Task.RANK)
        weakref.finalize(self, self._runtime.let_go)

    @property
    def spec(self) -> ModelSpec:
        """What is served; dtype and fingerprint once the model is loaded."""
        return self._runtime.worker.spec

    async def rank(self, query: str, documents: Sequence[str], **arguments: Unpack[RankArguments]) -> list[Ranked]:
        """See `Reranker.rank`."""
        work = self._runtime.rank(_request_of(query, documents, arguments))
        return _ranked(await asyncio.wrap_future(self._runtime.submit(work)), arguments)

    async def close(self) -> None:
        """Let the model go."""
        await asyncio.to_thread(self._runtime.close)

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._runtime.worker.wait_loaded)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _request_of(query: str, documents: Sequence[str], arguments: RankArguments) -> RankRequest:
    unknown = arguments.keys() - RankArguments.__annotations__.keys()
    if unknown:
        known = ", ".join(RankArguments.__annotations__)
        raise TypeError(f"rank() got unknown arguments {', '.join(sorted(unknown))}; it takes {known}")
    if not isinstance(query, str):
        raise InvalidInput(f"query is of type {type(query).__name__}: give a text", param="query")
    if isinstance(documents, str):
        raise InvalidInput("documents is one text: give a list of them", param="documents")
    documents = list(documents)
    for index, document in enumerate(documents):
        if not isinstance(document, str):
            place = f"documents[{index}]"
            raise InvalidInput(f"{place} is of type {type(document).__name__}: give texts", param=place)
    top_n = arguments.get("top_n")
    if top_n is not None and (not isinstance(top_n, int) or isinstance(top_n, bool) or top_n < 1):
        raise InvalidInput(f"top_n must be a whole number from 1, not {top_n!r}", param="top_n")
    long_documents = arguments.get("long_documents", LongDocuments.REFUSE)
    if long_documents not in set(LongDocuments):
        known = ", ".join(LongDocuments)
        raise InvalidInput(f"long_documents={long_documents!r} is not known: use {known}", param="long_documents")
    options = RankOptions(instruction=arguments.get("instruction"), long_documents=LongDocuments(long_documents))
    return RankRequest(None, query, documents, options)


def _ranked(result: RankResult, arguments: RankArguments) -> list[Ranked]:
    logits: list[float] = result.logits.tolist()
    scores = logits if arguments.get("raw_scores") else [sigmoid(logit) for logit in logits]
    return [Ranked(index, scores[index]) for index in best_first(logits)[: arguments.get("top_n")]]
