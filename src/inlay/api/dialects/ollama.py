"""Ollama's dialect: `/api/embed` and the older `/api/embeddings`.

A model may have the tag `latest`. Too long texts are cut unless `truncate` is false, `dimensions` cut any model, and no
input is no error. Durations are in nanoseconds. Errors have a text.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType

from inlay.api.dialects.dialect import Dialect
from inlay.api.replies import Reply
from inlay.errors import ContextLengthExceeded, InlayError, UnknownModel
from inlay.requests import EmbedOptions, EmbedRequest, EmbedResult
from inlay.types import Truncate

OLLAMA = frozenset({"ollama"})
LATEST = ":latest"
NANOSECONDS = 1_000_000_000


class OllamaEmbedRequest(Struct):
    """The body of `POST /api/embed`."""

    model: str
    input: str | list[str] | None = None
    truncate: Annotated[bool | None, Meta(description="true, the default, cuts too long texts.")] = None
    dimensions: int | None = None
    options: Annotated[Any, Meta(description="Taken and not used.")] = None
    keep_alive: Annotated[Any, Meta(description="Taken and not used.")] = None


class OllamaEmbedResponse(Struct):
    model: str
    embeddings: list[list[float]]
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET


class OllamaEmbeddingsRequest(Struct):
    """The body of `POST /api/embeddings`."""

    model: str
    prompt: str | None = None
    options: Annotated[Any, Meta(description="Taken and not used.")] = None
    keep_alive: Annotated[Any, Meta(description="Taken and not used.")] = None


class OllamaEmbeddingsResponse(Struct):
    embedding: list[float]


class OllamaError(Struct):
    error: str


def render_error(error: InlayError) -> Reply:
    """`{"error"}`, with the words that its clients look for."""
    message = error.message
    if isinstance(error, UnknownModel):
        message = f"model not found: {message}"
    elif isinstance(error, ContextLengthExceeded):
        message = f"the input exceeds maximum context length: {message}"
    return Reply.of_json({"error": message}, error.status)


def _parse(call: OllamaEmbedRequest) -> EmbedRequest:
    texts = [call.input] if isinstance(call.input, str) else [*(call.input or [])]
    options = EmbedOptions(
        dimensions=call.dimensions or None,
        normalize=True,
        truncate=Truncate.NONE if call.truncate is False else Truncate.END,
        allow_untrained_cut=True,
    )
    return EmbedRequest(call.model.removesuffix(LATEST), [*texts], options)


def _answer_nothing(call: OllamaEmbedRequest) -> Reply | None:
    return None if call.input else Reply.of_json({"model": call.model, "embeddings": []})


def _render(result: EmbedResult, call: OllamaEmbedRequest) -> Reply:
    return Reply.of_json(
        {
            "model": call.model if result.fallback is None else result.model,
            "embeddings": np.ascontiguousarray(result.vectors),
            "total_duration": round((result.queue_seconds + result.model_seconds) * NANOSECONDS),
            "load_duration": 0,
            "prompt_eval_count": result.num_tokens,
        }
    )


def _parse_old(call: OllamaEmbeddingsRequest) -> EmbedRequest:
    options = EmbedOptions(normalize=True, truncate=Truncate.END)
    return EmbedRequest(call.model.removesuffix(LATEST), [call.prompt or ""], options)


def _answer_no_prompt(call: OllamaEmbeddingsRequest) -> Reply | None:
    return None if call.prompt else Reply.of_json({"embedding": []})


def _render_old(result: EmbedResult, call: OllamaEmbeddingsRequest) -> Reply:
    return Reply.of_json({"embedding": np.ascontiguousarray(result.vectors[0])})


EMBED = Dialect(
    speakers=OLLAMA,
    paths=("/api/embed",),
    summary="Embed texts (Ollama)",
    request=OllamaEmbedRequest,
    response=OllamaEmbedResponse,
    error=OllamaError,
    parse=_parse,
    render=_render,
    render_error=render_error,
    phrases={'truncate to "end"': "truncate to true", " (or token ids)": ""},
    answer_at_once=_answer_nothing,
)
EMBEDDINGS = Dialect(
    speakers=OLLAMA,
    paths=("/api/embeddings",),
    summary="Embed a text (Ollama, older)",
    request=OllamaEmbeddingsRequest,
    response=OllamaEmbeddingsResponse,
    error=OllamaError,
    parse=_parse_old,
    render=_render_old,
    render_error=render_error,
    names={"input": "prompt"},
    answer_at_once=_answer_no_prompt,
)
