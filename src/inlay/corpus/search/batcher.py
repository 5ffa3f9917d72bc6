"""The batcher where concurrent searches of one corpus meet: those that wait are searched together.

In: queries from an event loop. Out: hits. One thread searches at a time, as one search uses all cores; what
comes in meanwhile is one product over the same matrix, read once. Filtered searches go one by one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from inlay.corpus.search.hybrid import HybridQuery
from inlay.corpus.search.searcher import Hit, Searcher
from inlay.errors import InlayError
from inlay.types import FloatArray

MOST_TOGETHER = 64


@dataclass(slots=True, eq=False)
class _Visit:
    """One query that waits."""

    query: FloatArray
    top_k: int
    wanted: Mapping[str, Any] | None
    is_exact: bool
    future: asyncio.Future[list[Hit]]

    def can_join(self, other: _Visit) -> bool:
        return not self.wanted and not other.wanted and self.is_exact == other.is_exact


class SearchBatcher:
    """Searches one corpus for many callers. Lives on one event loop."""

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inlay-search")
        self._waiting: list[_Visit] = []
        self._working: asyncio.Task[None] | None = None

    async def search(
        self, query: FloatArray, top_k: int, wanted: Mapping[str, Any] | None = None, *, is_exact: bool = False
    ) -> list[Hit]:
        """The best rows for one query [width]; `InvalidInput` for one that cannot be searched."""
        self.searcher.check(query[None], top_k)
        future: asyncio.Future[list[Hit]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Visit(query, top_k, wanted, is_exact, future))
        if self._working is None or self._working.done():
            self._working = asyncio.get_running_loop().create_task(self._work())
        return await future

    async def search_hybrid(
        self, query: HybridQuery, top_k: int, wanted: Mapping[str, Any] | None = None, *, is_exact: bool = False
    ) -> list[Hit]:
        """The best rows by all kinds of output, on the same thread as other searches."""
        run = partial(self.searcher.search_hybrid, query, top_k, wanted, is_exact=is_exact)
        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    async def _work(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            together = [first, *(visit for visit in self._waiting[1:] if visit.can_join(first))][:MOST_TOGETHER]
            self._waiting = [visit for visit in self._waiting if visit not in together]
            together = [visit for visit in together if not visit.future.done()]
            if together:
                await self._search_together(together)

    async def _search_together(self, visits: list[_Visit]) -> None:
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, self._run, visits)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            if len(visits) > 1:  # it is one visit's own fault, or each hears of it alone
                for visit in visits:
                    await self._search_together([visit])
                return
            results = [error if isinstance(error, InlayError) else InlayError(f"search failed: {error!r}")] * len(
                visits
            )
        for visit, result in zip(visits, results, strict=True):
            if visit.future.done():
                continue
            if isinstance(result, InlayError):
                visit.future.set_exception(result)
            else:
                visit.future.set_result(result)

    def _run(self, visits: list[_Visit]) -> list[list[Hit] | InlayError]:
        queries = np.stack([visit.query for visit in visits])
        most = max(visit.top_k for visit in visits)
        hits = self.searcher.search_many(queries, most, visits[0].wanted, is_exact=visits[0].is_exact)
        return [found[: visit.top_k] for visit, found in zip(visits, hits, strict=True)]
