"""vLLM's dialect: `/score`, `/pooling`, `/tokenize` and `/detokenize`; its `/rerank` is `rerank`'s.

Scores are in the order of the input: one query for all documents, or one for each. A reranker gives them, or the cosine
of a model that embeds.
"""

from __future__ import annotations

import time
import uuid
from http import HTTPStatus
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from inlay.api.dialects.dialect import Dialect
from inlay.api.dialects.shared import inputs_of
from inlay.api.replies import Reply
from inlay.errors import InlayError, InvalidInput, WrongTask
from inlay.requests import (
    DecodeRequest,
    EmbedOptions,
    EmbedRequest,
    EmbedResult,
    LongDocuments,
    PairsRequest,
    PairsResult,
    RankOptions,
    Result,
    TokenizeRequest,
    TokensResult,
)
from inlay.serving.shaping import sigmoid, to_base64_many
from inlay.types import DENSE, TOKEN_EMBEDDINGS, Truncate

VLLM = frozenset({"vllm"})
Texts = str | list[str]
EMBED, TOKEN_EMBED = "embed", "token_embed"
CUT = "truncate_prompt_tokens to -1"


class VLLMScoreRequest(Struct):
    """The body of `POST /score`: two texts or lists of texts, by one of four pairs of names."""

    model: str | None = None
    queries: Texts | None = None
    documents: Texts | None = None
    items: Texts | None = None
    text_1: Texts | None = None
    text_2: Texts | None = None
    data_1: Texts | None = None
    data_2: Texts | None = None
    use_activation: Annotated[bool | None, Meta(description="false gives a reranker's logits.")] = None
    truncate_prompt_tokens: Annotated[int | None, Meta(description="-1 cuts too long texts.")] = None
    instruction: str | None = None


class VLLMUsage(Struct):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int


class VLLMScore(Struct):
    index: int
    object: Literal["score"]
    score: float


class VLLMScoreResponse(Struct):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[VLLMScore]
    usage: VLLMUsage


class VLLMPoolingRequest(Struct):
    """The body of `POST /pooling`."""

    input: str | list[str | int | list[int]]
    model: str | None = None
    task: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    use_activation: Annotated[bool | None, Meta(description="false leaves the length of vectors as it is.")] = None
    truncate_prompt_tokens: Annotated[int | None, Meta(description="-1 cuts too long texts.")] = None


class VLLMPooling(Struct):
    """`data` has a row for each token with the task `token_embed`, end to end in base64."""

    index: int
    object: Literal["pooling"]
    data: list[float | list[float]] | str


class VLLMPoolingResponse(Struct):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[VLLMPooling]
    usage: VLLMUsage


class VLLMTokenizeRequest(Struct):
    """The body of `POST /tokenize` with `prompt`."""

    prompt: str
    model: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class VLLMTokens(Struct):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | UnsetType = UNSET


class VLLMDetokenizeRequest(Struct):
    """The body of `POST /detokenize`."""

    tokens: list[int]
    model: str | None = None


class VLLMPrompt(Struct):
    prompt: str


class VLLMErrorBody(Struct):
    message: str
    type: str
    param: str | None
    code: int


class VLLMError(Struct):
    error: VLLMErrorBody


def render_error(error: InlayError) -> Reply:
    """`{"error": {message, type, param, code}}`, whose code is the status."""
    name = HTTPStatus(error.status).phrase.replace(" ", "") if error.status != 499 else "ClientClosedRequest"
    body = {"message": error.message, "type": f"{name}Error", "param": error.param, "code": error.status}
    return Reply.of_json({"error": body}, error.status)


def _parse_score(call: VLLMScoreRequest) -> PairsRequest:
    is_cut = _is_cut(call.truncate_prompt_tokens)
    long_documents = LongDocuments.TRUNCATE if is_cut else LongDocuments.REFUSE
    options = RankOptions(instruction=call.instruction, long_documents=long_documents)
    return PairsRequest(call.model, _pairs_of(call), options)


def _is_cut(truncate_prompt_tokens: int | None) -> bool:
    """Of vLLM's numbers −1, the model's own limit, is the one that is known here."""
    if truncate_prompt_tokens not in (None, -1):
        raise InvalidInput(
            f"truncate_prompt_tokens must be -1, which cuts at the model's limit, not {truncate_prompt_tokens}",
            param="truncate_prompt_tokens",
        )
    return truncate_prompt_tokens == -1


def _pairs_of(call: VLLMScoreRequest) -> list[tuple[str, str]]:
    given = [
        (call.queries, call.documents),
        (call.queries, call.items),
        (call.text_1, call.text_2),
        (call.data_1, call.data_2),
    ]
    whole = [(first, second) for first, second in given if first is not None and second is not None]
    if len(whole) != 1:
        raise InvalidInput("send queries and documents, or text_1 and text_2, once", param="queries")
    queries, texts = ([one] if isinstance(one, str) else one for one in whole[0])
    if len(queries) not in (1, len(texts)):
        raise InvalidInput(f"{len(queries)} queries for {len(texts)} documents: send one, or as many", param="queries")
    return [(queries[0] if len(queries) == 1 else queries[place], text) for place, text in enumerate(texts)]


def _render_score(result: PairsResult, call: VLLMScoreRequest) -> Reply:
    activates = result.are_logits and call.use_activation is not False
    scores = [sigmoid(one) if activates else one for one in result.scores.tolist()]
    return _listed(result, "score", [{"index": i, "object": "score", "score": one} for i, one in enumerate(scores)])


def _listed(result: Result, kind: str, data: list[dict[str, Any]]) -> Reply:
    usage = {"prompt_tokens": result.num_tokens, "total_tokens": result.num_tokens, "completion_tokens": 0}
    told = {"id": f"{kind}-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()), "model": result.model}
    return Reply.of_json({**told, "data": data, "usage": usage})


def _parse_pooling(call: VLLMPoolingRequest) -> EmbedRequest:
    if call.task not in (None, EMBED, TOKEN_EMBED):
        raise WrongTask(f"Unsupported task: {call.task!r}; supported: {EMBED!r}, {TOKEN_EMBED!r}", param="task")
    truncate = Truncate.END if _is_cut(call.truncate_prompt_tokens) else Truncate.NONE
    options = EmbedOptions(
        dimensions=call.dimensions,
        normalize=call.use_activation is not False,
        truncate=truncate,
        outputs=(TOKEN_EMBEDDINGS if call.task == TOKEN_EMBED else DENSE,),
    )
    return EmbedRequest(call.model, inputs_of(call.input), options)


def _render_pooling(result: EmbedResult, call: VLLMPoolingRequest) -> Reply:
    rows: Any = result.others.get(TOKEN_EMBEDDINGS, result.vectors)
    if call.encoding_format == "base64":
        rows = [to_base64_many(one.reshape(1, -1))[0].decode() for one in rows]
    data = [{"index": index, "object": "pooling", "data": row} for index, row in enumerate(rows)]
    return _listed(result, "pool", data)


def _parse_tokenize(call: VLLMTokenizeRequest) -> TokenizeRequest:
    return TokenizeRequest(call.model, [call.prompt], adds_special_tokens=call.add_special_tokens is not False)


def _render_tokens(result: TokensResult, call: VLLMTokenizeRequest) -> Reply:
    (tokens,) = result.tokens
    body = {"count": len(tokens), "max_model_len": result.max_tokens, "tokens": [one.id for one in tokens]}
    strings = {"token_strs": [one.text for one in tokens]} if call.return_token_strs else {}
    return Reply.of_json({**body, **strings})


def _parse_detokenize(call: VLLMDetokenizeRequest) -> DecodeRequest:
    return DecodeRequest(call.model, [call.tokens], skips_special_tokens=False)


def _render_prompt(result: TokensResult, call: VLLMDetokenizeRequest) -> Reply:
    return Reply.of_json({"prompt": result.texts[0]})


SCORE = Dialect(
    speakers=VLLM,
    paths=("/score", "/v1/score"),
    summary="Scores of pairs (vLLM)",
    request=VLLMScoreRequest,
    response=VLLMScoreResponse,
    error=VLLMError,
    parse=_parse_score,
    render=_render_score,
    render_error=render_error,
    names={"pairs": "documents", "input": "documents"},
    phrases={'long_documents to "truncate" or "best_chunk"': CUT},
)
POOLING = Dialect(
    speakers=VLLM,
    paths=("/pooling",),
    summary="Embed texts (vLLM)",
    request=VLLMPoolingRequest,
    response=VLLMPoolingResponse,
    error=VLLMError,
    parse=_parse_pooling,
    render=_render_pooling,
    render_error=render_error,
    phrases={'truncate to "end"': CUT},
)
TOKENIZE = Dialect(
    speakers=VLLM,
    paths=("/tokenize",),
    summary="Tokens of a text (vLLM)",
    request=VLLMTokenizeRequest,
    response=VLLMTokens,
    error=VLLMError,
    parse=_parse_tokenize,
    render=_render_tokens,
    render_error=render_error,
    names={"input": "prompt"},
)
DETOKENIZE = Dialect(
    speakers=VLLM,
    paths=("/detokenize",),
    summary="The text of token ids (vLLM)",
    request=VLLMDetokenizeRequest,
    response=VLLMPrompt,
    error=VLLMError,
    parse=_parse_detokenize,
    render=_render_prompt,
    render_error=render_error,
    names={"ids": "tokens"},
)
