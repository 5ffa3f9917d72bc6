"""The bodies of `POST /v1/rerank`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from inlay.api.common_shapes import EXPECT_FINGERPRINT, MAY_FALL_BACK, ON_ERROR, ErrorBody, Usage
from inlay.api.dialects.shared import TextObject


class Document(TextObject):
    """A document, with whatever else it has."""


class RerankRequest(Struct):
    """Every field but `query` and `documents` may be left out or null."""

    query: str
    documents: Annotated[list[str | Document], Meta(description='Texts, or objects with a field "text".')]
    model: Annotated[str | None, Meta(description="A served reranker; the first one by default.")] = None
    top_n: Annotated[int | None, Meta(description="How many of the best to give back; all by default.")] = None
    return_documents: Annotated[bool | None, Meta(description="Give back the texts, too.")] = None
    raw_scores: Annotated[
        bool | None, Meta(description="The model's logits instead of their sigmoid, which lies between 0 and 1.")
    ] = None
    instruction: Annotated[str | None, Meta(description="The task, for models that take instructions.")] = None
    long_documents: Annotated[
        Literal["refuse", "truncate", "best_chunk"] | None,
        Meta(description="What is done with too long documents: refuse (the default), cut, or score the best part."),
    ] = None
    truncate: Annotated[bool | None, Meta(description="true: long_documents is truncate.")] = None
    priority: Literal["high", "normal", "low"] | None = None
    fallback: Annotated[bool | None, Meta(description=MAY_FALL_BACK)] = None
    rank_fields: Annotated[Any, Meta(description="Of Cohere; refused, as documents are texts.")] = None
    on_error: Annotated[Literal["fail", "skip"] | None, Meta(description=ON_ERROR)] = None
    expect_fingerprint: Annotated[str | None, Meta(description=EXPECT_FINGERPRINT)] = None
    user: Annotated[Any, Meta(description="Taken and not used.")] = None


class RankedDocument(Struct):
    """`index` is the document's place in the request; with on_error skip those at fault come last, with `error`."""

    index: int
    relevance_score: float | UnsetType = UNSET
    error: ErrorBody | UnsetType = UNSET
    document: Document | UnsetType = UNSET
    is_truncated: bool | UnsetType = UNSET  # in replies line by line; else a header tells
    is_in_parts: bool | UnsetType = UNSET


class FlatDocument(Struct):
    index: int
    relevance_score: float | UnsetType = UNSET
    error: ErrorBody | UnsetType = UNSET
    document: str | UnsetType = UNSET


class SearchUnits(Struct):
    search_units: int


class ApiVersion(Struct):
    version: str


class RerankMeta(Struct):
    api_version: ApiVersion
    billed_units: SearchUnits


class RerankResponse(Struct):
    """`data` is the same as `results`, for clients of Voyage; without it where `top_n` tells that it is none."""

    id: str
    object: Literal["list"]
    results: list[RankedDocument]
    model: str
    usage: Usage
    meta: RerankMeta
    data: list[FlatDocument] | UnsetType = UNSET
