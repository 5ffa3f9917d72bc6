"""The hits of a search in the order that a reranker gives them.

In: hits with their texts, and the query. Out: the best of them with the reranker's scores, and what it cost. A text
that is too long for the reranker is cut: a search should not fail for one row.
"""

from __future__ import annotations

from msgspec.structs import replace

from inlay.api.exchange import Exchange
from inlay.api.search_schema import Rerank
from inlay.corpus.search.searcher import Hit
from inlay.errors import InlayError
from inlay.requests import LongDocuments, RankOptions, RankRequest, RankResult
from inlay.serving.service import Service
from inlay.serving.shaping import best_first, sigmoid
from inlay.types import Priority

NAMES = {"model": "rerank.model", "instruction": "rerank.instruction", "input": "hit"}
OPTIONS = RankOptions(long_documents=LongDocuments.TRUNCATE, priority=Priority.HIGH, fallback=False)


async def rerank_hits(
    service: Service, asked: Rerank, query: str, hits: list[Hit], exchange: Exchange, deadline: float
) -> tuple[list[Hit], RankResult | None]:
    """The hits that are asked for, the best first; no result where nothing was found."""
    if not hits:
        return [], None
    documents = [str(hit.record.get("text") or " ") for hit in hits]
    caller = exchange.caller
    priority = OPTIONS.priority if caller is None else caller.highest(OPTIONS.priority)
    options = replace(OPTIONS, instruction=asked.instruction, priority=priority)
    request = RankRequest(asked.model, query, documents, options, deadline, exchange.departed, None, caller)
    try:
        result = await service.rank(request)
    except InlayError as error:
        raise error.renamed(NAMES) from error
    logits: list[float] = result.logits.tolist()
    order = best_first(logits)[: asked.top_n]
    return [hits[place]._replace(score=sigmoid(logits[place])) for place in order], result
