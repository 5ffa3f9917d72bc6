"""OpenAI's wire format as structs: what is parsed, and what the API's description is generated from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from inlay.api.common_shapes import EXPECT_FINGERPRINT, MAY_FALL_BACK, ON_ERROR, ErrorBody, Usage
from inlay.serving.output_dtypes import OutputDtype


class EmbeddingRequest(Struct):
    """The body of `POST /v1/embeddings`. Every field but `input` may be left out or null."""

    input: Annotated[
        str | list[str | int | list[int]],
        Meta(description="A text, a list of texts, or (when the server allows it) token ids."),
    ]
    model: Annotated[
        str | None, Meta(description="A served name; `name:query` also picks the model's prompt `query`.")
    ] = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int | None, Meta(description="Components to keep, for Matryoshka models.")] = None
    user: Annotated[Any, Meta(description="Taken and not used.")] = None
    prompt_name: Annotated[str | None, Meta(description="A prompt of the model, see /v1/models.")] = None
    input_type: Annotated[str | None, Meta(description="query or document: the prompt by its role.")] = None
    instruction: Annotated[str | None, Meta(description="The task of a query, for models that take instructions.")] = (
        None
    )
    truncate: Annotated[
        bool | Literal["none", "start", "end"] | None,
        Meta(description="What to do with too long inputs: none (refuse, the default), or cut start or end."),
    ] = None
    normalize: Annotated[bool | None, Meta(description="Unit length; default: as the model says.")] = None
    output_dtype: Annotated[
        OutputDtype | None,
        Meta(
            description="The numbers of a vector: float (the default), float16, int8, uint8, or a bit for each, packed "
            "into bytes: ubinary, binary (−128). With base64, bytes of that type."
        ),
    ] = None
    priority: Literal["high", "normal", "low"] | None = None
    fallback: Annotated[bool | None, Meta(description=MAY_FALL_BACK)] = None
    outputs: Annotated[
        list[str] | None,
        Meta(
            description="What to give of each input: dense (the default), token_embeddings (the hidden states of its "
            "tokens), and of models that have them sparse (a weight for each of its tokens) and colbert (a vector for "
            "each). See /v1/models."
        ),
    ] = None
    embedding_types: Annotated[list[str] | None, Meta(description="The same as outputs; float is dense.")] = None
    expect_fingerprint: Annotated[str | None, Meta(description=EXPECT_FINGERPRINT)] = None
    on_error: Annotated[Literal["fail", "skip"] | None, Meta(description=ON_ERROR)] = None
    include_tokens: Annotated[
        bool | None,
        Meta(description="Tell of each input its tokens and whether it was cut, and the model's fingerprint."),
    ] = None


class Sparse(Struct):
    """Weights of the tokens of an input, by id; tokens without one are left out."""

    indices: list[int]
    values: list[float]


class Embedding(Struct):
    """One vector; `embedding` is a list of numbers, or base64 of them, little-endian: float32 by default.

    Empty where dense was not asked for; with on_error skip an input at fault has `error` instead. `colbert` has a row
    for each token, or base64 of float32 rows end to end; `token_embeddings` too, special tokens included.
    """

    object: Literal["embedding"]
    index: int
    embedding: list[float | int] | str | UnsetType = UNSET
    error: ErrorBody | UnsetType = UNSET
    sparse: Sparse | UnsetType = UNSET
    colbert: list[list[float]] | str | UnsetType = UNSET
    token_embeddings: list[list[float]] | str | UnsetType = UNSET
    num_tokens: int | UnsetType = UNSET
    is_truncated: bool | UnsetType = UNSET


class EmbeddingResponse(Struct):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage
    fingerprint: str | UnsetType = UNSET
