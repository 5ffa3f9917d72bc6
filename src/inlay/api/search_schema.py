"""The wire format of `POST /v1/search`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from inlay.api.common_shapes import Usage


class Rerank(Struct, forbid_unknown_fields=True):
    """A second look at what was found."""

    model: Annotated[str | None, Meta(description="A served reranker; the first one by default.")] = None
    top_n: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="How many of the best hits to give back; all by default.")
    ] = None
    instruction: Annotated[str | None, Meta(description="Its task, for rerankers that take one.")] = None


class Hybrid(Struct, forbid_unknown_fields=True):
    """Search by dense, sparse and token vectors, of a corpus that keeps them."""

    weights: Annotated[
        dict[str, float] | None, Meta(description="Of each kind; default: dense 0.4, sparse 0.2, colbert 0.4.")
    ] = None
    candidates: Annotated[
        int, Meta(ge=1, le=1000, description="Rows that dense and sparse vectors each find, to be scored by all.")
    ] = 100


class SearchRequest(Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/search`: a corpus, and a query or an embedding."""

    corpus: Annotated[str | None, Meta(description="A name given with --corpus; may be left out if there is one.")] = (
        None
    )
    query: Annotated[str | None, Meta(description="The text to search for.")] = None
    embedding: Annotated[
        list[float] | str | None, Meta(description="A vector instead: floats, or base64 of little-endian float32.")
    ] = None
    model: Annotated[str | None, Meta(description="May be left out: it is the one that made the corpus.")] = None
    top_k: int | None = None
    filter: Annotated[
        dict[str, Any] | None, Meta(description="Values that fields must have: a value, or a list to choose from.")
    ] = None
    prompt_name: Annotated[str | None, Meta(description="Prompt of the query; default: query.")] = None
    instruction: Annotated[str | None, Meta(description="Task of the query, for models that take one.")] = None
    include_text: Annotated[bool | None, Meta(description="Give the texts of the hits; default: true.")] = None
    exact: Annotated[bool | None, Meta(description="Search exactly, past the index.")] = None
    hybrid: Annotated[
        Hybrid | None, Meta(description="Search by all outputs that the corpus keeps; {} for the usual weights.")
    ] = None
    rerank: Annotated[
        Rerank | None,
        Meta(description="Order the hits by a reranker's score of the query with their texts, cut where too long."),
    ] = None


class SearchHit(Struct):
    """One row; the columns that were kept lie beside its text."""

    object: Literal["search.hit"]
    id: str | int
    score: float
    text: str
    scores: Annotated[dict[str, float] | UnsetType, Meta(description="Of each kind, of a hybrid search.")] = UNSET


class SearchResponse(Struct):
    object: Literal["list"]
    data: list[SearchHit]
    corpus: str
    model: str
    usage: Annotated[Usage, Meta(description="Of the query, and of what was reranked.")]
