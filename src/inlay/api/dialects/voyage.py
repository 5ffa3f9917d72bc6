"""Voyage's dialect: `POST /v1/embeddings` and `/v1/rerank`, which it shares with others.

Its Python client sends all fields, null or not; too long texts are cut unless `truncation` is false. Errors have one
field, a plain string: with an object `error` beside it older clients break.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from inlay.api.dialects.dialect import Dialect
from inlay.api.replies import Reply
from inlay.errors import InlayError, InvalidInput
from inlay.models.prompts import DOCUMENT, QUERY
from inlay.requests import EmbedOptions, EmbedRequest, EmbedResult, LongDocuments, RankOptions, RankRequest, RankResult
from inlay.serving.output_dtypes import OutputDtype, convert_rows
from inlay.serving.shaping import best_first, sigmoid, to_base64_many
from inlay.types import Truncate

VOYAGE = frozenset({"voyage"})


class VoyageEmbeddingRequest(Struct):
    """The body of `POST /v1/embeddings` with one of `truncation` and `output_dimension`."""

    input: str | list[str]
    model: str | None = None
    input_type: Literal["query", "document"] | None = None
    truncation: Annotated[bool | None, Meta(description="true, the default, cuts too long texts.")] = None
    output_dtype: Literal["float", "int8", "uint8", "binary", "ubinary"] | None = None
    output_dimension: int | None = None
    encoding_format: Annotated[
        Literal["base64", "float"] | None, Meta(description="Base64 of the bytes of output_dtype, little-endian.")
    ] = None


class VoyageUsage(Struct):
    total_tokens: int


class VoyageEmbedding(Struct):
    object: Literal["embedding"]
    index: int
    embedding: list[float | int] | str


class VoyageEmbeddingResponse(Struct):
    object: Literal["list"]
    data: list[VoyageEmbedding]
    model: str
    usage: VoyageUsage


class VoyageRerankRequest(Struct):
    """The body of `POST /v1/rerank` with one of `truncation` and `top_k`."""

    query: str
    documents: list[str]
    model: str | None = None
    top_k: int | None = None
    return_documents: bool | None = None
    truncation: Annotated[bool | None, Meta(description="true, the default, cuts too long documents.")] = None


class VoyageRanked(Struct):
    index: int
    relevance_score: float
    document: str | UnsetType = UNSET


class VoyageRerankResponse(Struct):
    object: Literal["list"]
    data: list[VoyageRanked]
    model: str
    usage: VoyageUsage


class VoyageError(Struct):
    detail: str


def render_error(error: InlayError) -> Reply:
    return Reply.of_json({"detail": error.message}, error.status)


def _parse(call: VoyageEmbeddingRequest) -> EmbedRequest:
    inputs: list[str | list[int]] = [call.input] if isinstance(call.input, str) else [*call.input]
    options = EmbedOptions(
        prompt_name={None: None, "query": QUERY, "document": DOCUMENT}[call.input_type],
        dimensions=call.output_dimension,
        normalize=True,
        truncate=Truncate.NONE if call.truncation is False else Truncate.END,
    )
    return EmbedRequest(call.model, inputs, options)


def _render(result: EmbedResult, call: VoyageEmbeddingRequest) -> Reply:
    rows: Any = convert_rows(result.vectors, OutputDtype(call.output_dtype or OutputDtype.FLOAT))
    if call.encoding_format == "base64":
        rows = [one.decode() for one in to_base64_many(rows)]
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    usage = {"total_tokens": result.num_tokens}
    return Reply.of_json({"object": "list", "data": data, "model": result.model, "usage": usage})


def _parse_rerank(call: VoyageRerankRequest) -> RankRequest:
    if call.top_k is not None and call.top_k < 1:
        raise InvalidInput(f"top_k must be at least 1, not {call.top_k}", param="top_k")
    long_documents = LongDocuments.REFUSE if call.truncation is False else LongDocuments.TRUNCATE
    return RankRequest(call.model, call.query, call.documents, RankOptions(long_documents=long_documents))


def _render_rerank(result: RankResult, call: VoyageRerankRequest) -> Reply:
    logits = result.logits.tolist()
    data = []
    for index in best_first(logits)[: call.top_k]:
        row: dict[str, Any] = {"index": index, "relevance_score": sigmoid(logits[index])}
        data.append({**row, "document": call.documents[index]} if call.return_documents else row)
    usage = {"total_tokens": result.num_tokens}
    return Reply.of_json({"object": "list", "data": data, "model": result.model, "usage": usage})


EMBEDDINGS = Dialect(
    speakers=VOYAGE,
    paths=("/v1/embeddings",),
    summary="Embed texts (Voyage)",
    request=VoyageEmbeddingRequest,
    response=VoyageEmbeddingResponse,
    error=VoyageError,
    parse=_parse,
    render=_render,
    render_error=render_error,
    names={"dimensions": "output_dimension"},
    phrases={
        'truncate to "end"': "truncation to true",
        "leave out dimensions": "leave out output_dimension",
        " (or token ids)": "",
    },
    told_by=frozenset({"truncation", "output_dimension"}),
)
RERANK = Dialect(
    speakers=VOYAGE,
    paths=("/v1/rerank",),
    summary="Score documents against a query (Voyage)",
    request=VoyageRerankRequest,
    response=VoyageRerankResponse,
    error=VoyageError,
    parse=_parse_rerank,
    render=_render_rerank,
    render_error=render_error,
    names={"input": "documents"},
    phrases={'long_documents to "truncate" or "best_chunk"': "truncation to true"},
    told_by=frozenset({"truncation", "top_k"}),
)
