"""The bodies of Text Embeddings Inference."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

MODEL = Meta(description="A served model; by default the first that does what is asked for.")
Side = Literal["Left", "left", "Right", "right"]
Cut = Annotated[bool | None, Meta(description="Cut too long inputs: true by default; false refuses them.")]


class TEIEmbedRequest(Struct):
    """The body of `POST /embed`, `/` and `/invocations`."""

    inputs: str | list[str | int | list[int]]
    model: Annotated[str | None, MODEL] = None
    truncate: Cut = None
    truncation_direction: Side | None = None
    prompt_name: str | None = None
    normalize: Annotated[bool | None, Meta(description="true by default.")] = None
    dimensions: int | None = None


class TEIAllRequest(Struct):
    """The body of `POST /embed_all` and `POST /embed_sparse`."""

    inputs: str | list[str | int | list[int]]
    model: Annotated[str | None, MODEL] = None
    truncate: Cut = None
    truncation_direction: Side | None = None
    prompt_name: str | None = None


class TEISparseValue(Struct):
    index: int
    value: float


class TEIRerankRequest(Struct):
    """The body of `POST /rerank` with `texts`."""

    query: str
    texts: list[str]
    model: Annotated[str | None, MODEL] = None
    truncate: Cut = None
    truncation_direction: Literal["Right", "right"] | None = None
    raw_scores: bool | None = None
    return_text: bool | None = None
    top_n: Annotated[int | None, Meta(description="How many of the best to give; all by default.")] = None


class TEIRanked(Struct):
    index: int
    score: float
    text: str | UnsetType = UNSET


class TEISentences(Struct):
    source_sentence: str
    sentences: list[str]


class TEIParameters(Struct):
    truncate: Cut = None
    truncation_direction: Side | None = None
    prompt_name: str | None = None


class TEISimilarityRequest(Struct):
    """The body of `POST /similarity`."""

    inputs: TEISentences
    parameters: TEIParameters | None = None
    model: Annotated[str | None, MODEL] = None


class TEIPredictRequest(Struct):
    """The body of `POST /predict`: two texts are one pair, and lists of two are several."""

    inputs: str | list[str | list[str]]
    model: Annotated[str | None, MODEL] = None
    truncate: Cut = None
    raw_scores: bool | None = None


class TEIPrediction(Struct):
    score: float
    label: str


class TEITokenizeRequest(Struct):
    """The body of `POST /tokenize` with `inputs`."""

    inputs: str | list[str]
    model: Annotated[str | None, MODEL] = None
    add_special_tokens: Annotated[bool | None, Meta(description="true by default.")] = None
    prompt_name: str | None = None


class TEIToken(Struct):
    """`start` and `stop` are bytes of the text, with its prompt before it; special tokens have none."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TEIDecodeRequest(Struct):
    """The body of `POST /decode`."""

    ids: list[int | list[int]]
    model: Annotated[str | None, MODEL] = None
    skip_special_tokens: Annotated[bool | None, Meta(description="true by default.")] = None


class TEIError(Struct):
    error: str
    error_type: str
