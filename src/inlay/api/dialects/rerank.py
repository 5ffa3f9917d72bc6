"""`POST /v1/rerank` and `/rerank`, in the shape that clients of Jina, Cohere and vLLM share, with Inlay's extensions.

Where a body does not tell that it is not Voyage's, the reply has Voyage's list, too.
"""

from __future__ import annotations

import uuid
from typing import Any

from inlay.api.common_shapes import SharedErrorResponse, body_of, render_shared_error, usage_of
from inlay.api.dialects.dialect import Dialect, Rows
from inlay.api.dialects.rerank_schema import RankedDocument, RerankRequest, RerankResponse
from inlay.api.dialects.shared import search_units, text_of
from inlay.api.replies import Reply
from inlay.errors import InvalidInput
from inlay.requests import LongDocuments, RankOptions, RankRequest, RankResult
from inlay.serving.shaping import best_first, sigmoid
from inlay.types import Priority

NAMES = {"input": "documents"}


def parse(call: RerankRequest) -> RankRequest:
    """The request of a body."""
    if call.top_n is not None and call.top_n < 1:
        raise InvalidInput(f"top_n must be at least 1, not {call.top_n}", param="top_n")
    if call.rank_fields not in (None, ["text"]):
        raise InvalidInput("rank_fields is not supported: send texts, or objects with a text", param="rank_fields")
    long_documents = call.long_documents
    if call.truncate is not None:
        if long_documents is not None:
            raise InvalidInput("truncate and long_documents say the same: send one of them", param="truncate")
        long_documents = "truncate" if call.truncate else "refuse"
    options = RankOptions(
        instruction=call.instruction,
        long_documents=LongDocuments(long_documents or LongDocuments.REFUSE),
        priority=Priority(call.priority or Priority.NORMAL),
        expect_fingerprint=call.expect_fingerprint,
        skips_failed=call.on_error == "skip",
        fallback=call.fallback,
    )
    return RankRequest(call.model, call.query, [text_of(document) for document in call.documents], options)


def render(result: RankResult, call: RerankRequest) -> Reply:
    """The documents by their scores, the best first, with usage; equal scores in the order of the documents."""
    logits = result.logits.tolist()
    answered = result.answered
    rows = [_row_of(answered[place], logits[place], call) for place in best_first(logits)[: call.top_n]]
    rows += _failed_rows(result)
    units = {"search_units": search_units(len(logits))}
    body = {
        "id": str(uuid.uuid4()),
        "object": "list",
        "results": rows,
        "model": result.model,
        "usage": usage_of(result.num_tokens, result.cached_tokens),
        "meta": {"api_version": {"version": "1"}, "billed_units": units},
    }
    if call.top_n is None:  # it may be a client of Voyage, whose list has this name
        body["data"] = [_flat(row) for row in rows]
    return Reply.of_json(body)


def row_dicts(result: RankResult, call: RerankRequest) -> list[dict[str, Any]]:
    """A row for each document, in their order; those at fault come last."""
    rows = [_row_of(index, logit, call) for index, logit in zip(result.answered, result.logits.tolist(), strict=True)]
    return rows + _failed_rows(result)


def _failed_rows(result: RankResult) -> list[dict[str, Any]]:
    return [{"index": index, "error": body_of(error)} for index, error in result.failed.items()]


def _check_lines(call: RerankRequest) -> None:
    if call.top_n is not None:
        raise InvalidInput(
            "top_n is not for a reply line by line, which goes out before all scores are known: leave it out, or "
            "ask for application/json",
            param="top_n",
        )


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "document": row["document"]["text"]} if "document" in row else row


def _row_of(index: int, logit: float, call: RerankRequest) -> dict[str, Any]:
    row = {"index": index, "relevance_score": logit if call.raw_scores else sigmoid(logit)}
    return {**row, "document": {"text": text_of(call.documents[index])}} if call.return_documents else row


RERANK = Dialect(
    speakers=frozenset({"cohere", "jina", "vllm", "openai"}),
    paths=("/v1/rerank", "/rerank"),
    summary="Score documents against a query",
    request=RerankRequest,
    response=RerankResponse,
    error=SharedErrorResponse,
    parse=parse,
    render=render,
    render_error=render_shared_error,
    names=NAMES,
    rows=Rows(RankedDocument, row_dicts, _check_lines),
)
