"""Jina's embeddings: `POST /v1/embeddings`, which it shares with others. Its reranking is `rerank`'s.

Too long texts are refused unless `truncate` is true, as Jina's server does. A list of types gives an object of vectors
for each text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from inlay.api.dialects.dialect import Dialect
from inlay.api.dialects.shared import TextObject, rows_of, texts_of
from inlay.api.replies import Reply
from inlay.errors import InlayError, InvalidInput
from inlay.models.prompts import DOCUMENT, QUERY
from inlay.requests import EmbedOptions, EmbedRequest, EmbedResult
from inlay.types import Truncate

Kind = Literal["float", "base64", "binary", "ubinary"]
Task = Literal["retrieval.query", "retrieval.passage", "text-matching", "classification", "separation", "code.query"]
PROMPTS = {"retrieval.query": QUERY, "retrieval.passage": DOCUMENT}
TOLD_BY = frozenset({"task", "embedding_type", "encoding_type", "late_chunking", "normalized"})


class JinaEmbeddingRequest(Struct):
    """The body of `POST /v1/embeddings` with one of Jina's own fields."""

    input: str | list[str | TextObject]
    model: str | None = None
    embedding_type: Kind | list[Kind] | None = None
    encoding_type: Annotated[Kind | list[Kind] | None, Meta(description="The same as embedding_type.")] = None
    encoding_format: Annotated[Literal["float", "base64"] | None, Meta(description="The same, as OpenAI has it.")] = (
        None
    )
    task: Annotated[
        Task | None, Meta(description="retrieval.query and retrieval.passage choose the prompt; others choose none.")
    ] = None
    dimensions: int | None = None
    normalized: Annotated[bool | None, Meta(description="true by default.")] = None
    late_chunking: bool | None = None
    truncate: bool | None = None


class JinaUsage(Struct):
    total_tokens: int
    prompt_tokens: int


class JinaEmbedding(Struct):
    object: Literal["embedding"]
    index: int
    embedding: list[float | int] | str | dict[str, list[float | int] | str]


class JinaEmbeddingResponse(Struct):
    object: Literal["list"]
    data: list[JinaEmbedding]
    model: str
    usage: JinaUsage


class JinaError(Struct):
    detail: str


def render_error(error: InlayError) -> Reply:
    """With Jina's 422 for what its server's validation refuses."""
    return Reply.of_json({"detail": error.message}, 422 if error.status == 400 else error.status)


def _parse(call: JinaEmbeddingRequest) -> EmbedRequest:
    if call.late_chunking:
        raise InvalidInput("late_chunking is not supported: leave it out", param="late_chunking")
    kinds = _kinds_of(call)
    if call.normalized is False and not set(kinds).isdisjoint({"binary", "ubinary"}):
        raise InvalidInput("bits are of vectors of unit length: leave out normalized", param="normalized")
    options = EmbedOptions(
        prompt_name=PROMPTS.get(call.task or ""),
        dimensions=call.dimensions,
        normalize=call.normalized is not False,
        truncate=Truncate.END if call.truncate else Truncate.NONE,
    )
    return EmbedRequest(call.model, [*texts_of(call.input)], options)


def _render(result: EmbedResult, call: JinaEmbeddingRequest) -> Reply:
    by_kind = {kind: rows_of(result.vectors, kind) for kind in _kinds_of(call)}
    is_list = isinstance(call.embedding_type or call.encoding_type, list)
    data = []
    for index in range(len(result.vectors)):
        own = {kind: rows[index] for kind, rows in by_kind.items()}
        data.append({"object": "embedding", "index": index, "embedding": own if is_list else next(iter(own.values()))})
    usage = {"total_tokens": result.num_tokens, "prompt_tokens": result.num_tokens}
    return Reply.of_json({"object": "list", "data": data, "model": result.model, "usage": usage})


def _kinds_of(call: JinaEmbeddingRequest) -> Sequence[str]:
    given = call.embedding_type or call.encoding_type or call.encoding_format or "float"
    return [given] if isinstance(given, str) else given


EMBEDDINGS = Dialect(
    speakers=frozenset({"jina"}),
    paths=("/v1/embeddings",),
    summary="Embed texts (Jina)",
    request=JinaEmbeddingRequest,
    response=JinaEmbeddingResponse,
    error=JinaError,
    parse=_parse,
    render=_render,
    render_error=render_error,
    statuses={422: "A wrong field or input"},
    phrases={'truncate to "end"': "truncate to true", " (or token ids)": ""},
    told_by=TOLD_BY,
)
