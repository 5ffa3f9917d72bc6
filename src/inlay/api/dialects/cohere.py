"""Cohere's dialect: `POST /v2/embed`, `/v1/embed` and `/v2/rerank`; `/v1/rerank` is `rerank`'s.

Too long texts are cut at their end unless `truncate` is NONE. `response_type` tells its clients which of two shapes a
reply has, and they join the `id` of their batches: both are needed.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from inlay.api.dialects.dialect import Dialect
from inlay.api.dialects.shared import rows_of, search_units
from inlay.api.replies import Reply
from inlay.errors import InlayError, InvalidInput
from inlay.models.prompts import DOCUMENT, QUERY
from inlay.requests import (
    EmbedOptions,
    EmbedRequest,
    EmbedResult,
    LongDocuments,
    RankOptions,
    RankRequest,
    RankResult,
    TokenizeRequest,
    TokensResult,
)
from inlay.serving.shaping import best_first, sigmoid
from inlay.types import Truncate

COHERE = frozenset({"cohere"})
FLOAT = "float"
Kind = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
PROMPTS = {"search_query": QUERY, "search_document": DOCUMENT}
Cut = Literal["NONE", "START", "END"]
InputType = Literal["search_query", "search_document", "classification", "clustering", "image"]


class CoherePart(Struct):
    type: str
    text: str | None = None


class CohereInput(Struct):
    content: list[CoherePart]


class CohereEmbedRequest(Struct):
    """The body of `POST /v2/embed`: `texts`, or `inputs` whose parts are all texts."""

    texts: list[str] | None = None
    inputs: list[CohereInput] | None = None
    model: str | None = None
    input_type: Annotated[
        InputType | None, Meta(description="search_query and search_document choose the prompt; others choose none.")
    ] = None
    embedding_types: list[Kind] | None = None
    output_dimension: int | None = None
    truncate: Cut | None = None
    images: Any = None


class CohereUnits(Struct):
    input_tokens: int | UnsetType = UNSET
    search_units: int | UnsetType = UNSET


class CohereVersion(Struct):
    version: str


class CohereMeta(Struct):
    api_version: CohereVersion
    billed_units: CohereUnits


class CohereEmbedResponse(Struct):
    """`embeddings` by type; of `/v1/embed` without embedding_types a list of vectors."""

    id: str
    embeddings: dict[str, list[list[float | int] | str]] | list[list[float]]
    texts: list[str]
    meta: CohereMeta
    response_type: Literal["embeddings_by_type", "embeddings_floats"]


class CohereRerankRequest(Struct):
    """The body of `POST /v2/rerank`."""

    query: str
    documents: list[str]
    model: str | None = None
    top_n: int | None = None
    max_tokens_per_doc: Annotated[int | None, Meta(description="Taken and not used: long documents are cut.")] = None


class CohereRanked(Struct):
    index: int
    relevance_score: float


class CohereRerankResponse(Struct):
    id: str
    results: list[CohereRanked]
    meta: CohereMeta


class CohereError(Struct):
    message: str


def render_error(error: InlayError) -> Reply:
    return Reply.of_json({"message": error.message}, error.status)


def _parse_embed(call: CohereEmbedRequest) -> EmbedRequest:
    options = EmbedOptions(
        prompt_name=PROMPTS.get(call.input_type or ""),
        dimensions=call.output_dimension,
        normalize=True,
        truncate=Truncate((call.truncate or "END").lower()),
    )
    return EmbedRequest(call.model, [*_texts_of(call)], options)


def _texts_of(call: CohereEmbedRequest) -> list[str]:
    if call.images is not None:
        raise InvalidInput("images are not embedded here: send texts", param="images")
    if (call.texts is None) == (call.inputs is None):
        raise InvalidInput("send texts, or inputs, one of the two", param="texts")
    return call.texts if call.texts is not None else [_text_of(one, i) for i, one in enumerate(call.inputs or [])]


def _text_of(given: CohereInput, index: int) -> str:
    parts = [part.text for part in given.content if part.type == "text" and part.text is not None]
    if len(parts) != len(given.content):
        raise InvalidInput(f"inputs[{index}] has parts that are no texts: send texts alone", param=f"inputs[{index}]")
    return "\n".join(parts)


def _render_by_type(result: EmbedResult, call: CohereEmbedRequest, version: str = "2") -> Reply:
    kinds: Sequence[str] = call.embedding_types or [FLOAT]
    embeddings = {kind: rows_of(result.vectors, kind) for kind in kinds}
    return _embed_reply(result, call, embeddings, "embeddings_by_type", version)


def _render_v1(result: EmbedResult, call: CohereEmbedRequest) -> Reply:
    if call.embedding_types:
        return _render_by_type(result, call, "1")
    return _embed_reply(result, call, result.vectors, "embeddings_floats", "1")


def _embed_reply(
    result: EmbedResult, call: CohereEmbedRequest, embeddings: object, response_type: str, version: str
) -> Reply:
    meta = {"api_version": {"version": version}, "billed_units": {"input_tokens": result.num_tokens}}
    texts = _texts_of(call)
    body = {"id": _new_id(), "embeddings": embeddings, "texts": texts, "meta": meta, "response_type": response_type}
    return Reply.of_json(body)


def _parse_rerank(call: CohereRerankRequest) -> RankRequest:
    if call.top_n is not None and call.top_n < 1:
        raise InvalidInput(f"top_n must be at least 1, not {call.top_n}", param="top_n")
    options = RankOptions(long_documents=LongDocuments.TRUNCATE)
    return RankRequest(call.model, call.query, call.documents, options)


def _render_rerank(result: RankResult, call: CohereRerankRequest) -> Reply:
    logits = result.logits.tolist()
    order = best_first(logits)[: call.top_n]
    results = [{"index": index, "relevance_score": sigmoid(logits[index])} for index in order]
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": search_units(len(logits))}}
    return Reply.of_json({"id": _new_id(), "results": results, "meta": meta})


def _new_id() -> str:
    return str(uuid.uuid4())


class CohereTokenizeRequest(Struct):
    """The body of `POST /v1/tokenize`."""

    text: str
    model: str | None = None


class CohereTokenizeResponse(Struct):
    tokens: list[int]
    token_strings: list[str]


def _parse_tokenize(call: CohereTokenizeRequest) -> TokenizeRequest:
    return TokenizeRequest(call.model, [call.text], adds_special_tokens=False)


def _render_tokens(result: TokensResult, call: CohereTokenizeRequest) -> Reply:
    (tokens,) = result.tokens
    return Reply.of_json({"tokens": [one.id for one in tokens], "token_strings": [one.text for one in tokens]})


NAMES = {"input": "texts", "dimensions": "output_dimension"}
PHRASES = {
    'truncate to "end"': "truncate to END",
    "leave out dimensions": "leave out output_dimension",
    " (or token ids)": "",
}
EMBED_V2 = Dialect(
    speakers=COHERE,
    paths=("/v2/embed",),
    summary="Embed texts (Cohere)",
    request=CohereEmbedRequest,
    response=CohereEmbedResponse,
    error=CohereError,
    parse=_parse_embed,
    render=_render_by_type,
    render_error=render_error,
    names=NAMES,
    phrases=PHRASES,
)
EMBED_V1 = Dialect(
    speakers=COHERE,
    paths=("/v1/embed",),
    summary="Embed texts (Cohere, version 1)",
    request=CohereEmbedRequest,
    response=CohereEmbedResponse,
    error=CohereError,
    parse=_parse_embed,
    render=_render_v1,
    render_error=render_error,
    names=NAMES,
    phrases=PHRASES,
)
RERANK = Dialect(
    speakers=COHERE,
    paths=("/v2/rerank",),
    summary="Score documents against a query (Cohere)",
    request=CohereRerankRequest,
    response=CohereRerankResponse,
    error=CohereError,
    parse=_parse_rerank,
    render=_render_rerank,
    render_error=render_error,
    names={"input": "documents"},
)
TOKENIZE = Dialect(
    speakers=COHERE,
    paths=("/v1/tokenize",),
    summary="Tokens of a text (Cohere)",
    request=CohereTokenizeRequest,
    response=CohereTokenizeResponse,
    error=CohereError,
    parse=_parse_tokenize,
    render=_render_tokens,
    render_error=render_error,
    names={"input": "text"},
)
