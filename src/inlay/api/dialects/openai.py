"""OpenAI's dialect: `POST /v1/embeddings`, with Inlay's extensions for plain clients."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import orjson

from inlay.api.common_shapes import SharedErrorResponse, body_of, render_shared_error, usage_of
from inlay.api.dialects.dialect import Dialect, Rows
from inlay.api.dialects.openai_schema import Embedding, EmbeddingRequest, EmbeddingResponse
from inlay.api.dialects.shared import inputs_of
from inlay.api.replies import Reply
from inlay.errors import InvalidInput, shorten
from inlay.models.prompts import DOCUMENT, QUERY
from inlay.requests import EmbedOptions, EmbedRequest, EmbedResult
from inlay.serving.output_dtypes import convert_rows
from inlay.serving.shaping import to_base64_many
from inlay.types import DENSE, SPARSE, Priority, Truncate

BASE64, FLOAT, SKIP = "base64", "float", "skip"
BASE64_ROW = b'{"object":"embedding","index":%d,"embedding":"%b"}'
INPUT_TYPES = {
    "query": QUERY,
    "document": DOCUMENT,
    "passage": DOCUMENT,
    "search_query": QUERY,
    "search_document": DOCUMENT,
}


def parse(call: EmbeddingRequest) -> EmbedRequest:
    """The request of a body."""
    return EmbedRequest(call.model, inputs_of(call.input), _options_of(call))


def render(result: EmbedResult, call: EmbeddingRequest) -> Reply:
    """The vectors of a result, with usage."""
    body = {
        "object": "list",
        "data": _rows_of(result, call),
        "model": result.model,
        **({"fingerprint": result.fingerprint} if call.include_tokens else {}),
        "usage": usage_of(result.num_tokens, result.cached_tokens),
    }
    return Reply.of_json(body)


def _rows_of(result: EmbedResult, call: EmbeddingRequest) -> object:
    """`data` as orjson takes it."""
    has_more = call.include_tokens or result.others or result.failed
    if call.encoding_format != BASE64 or has_more:
        return row_dicts(result, call)
    rows = [BASE64_ROW % pair for pair in enumerate(_embeddings_of(result, call))]  # by far the most: at half the cost
    return orjson.Fragment(b"[%b]" % b",".join(rows))


def _embeddings_of(result: EmbedResult, call: EmbeddingRequest) -> Any:  # noqa: ANN401 - rows of numbers, or base64
    vectors = result.vectors if call.output_dtype is None else convert_rows(result.vectors, call.output_dtype)
    return to_base64_many(vectors) if call.encoding_format == BASE64 else vectors


def row_dicts(result: EmbedResult, call: EmbeddingRequest) -> list[dict[str, Any]]:
    """An item of `data` for each input, in their order."""
    is_base64 = call.encoding_format == BASE64
    embeddings = _embeddings_of(result, call)
    data: list[dict[str, Any]] = [
        {"object": "embedding", "index": index, "embedding": embedding.decode() if is_base64 else embedding}
        for index, embedding in zip(result.answered, embeddings, strict=True)
    ]
    for kind, arrays in result.others.items():
        for row, array in zip(data, arrays, strict=True):
            row[kind] = _sparse_of(array) if kind == SPARSE else _token_rows_of(array, is_base64=is_base64)
    if call.include_tokens:
        for row, num_tokens in zip(data, result.item_tokens, strict=True):
            row["num_tokens"], row["is_truncated"] = num_tokens, row["index"] in result.truncated
    skipped = [{"object": "embedding", "index": i, "error": body_of(error)} for i, error in result.failed.items()]
    return sorted([*data, *skipped], key=lambda row: row["index"]) if skipped else data


def _sparse_of(array: npt.NDArray[Any]) -> dict[str, Any]:
    return {"indices": array["id"].tolist(), "values": array["weight"].tolist()}


def _token_rows_of(array: npt.NDArray[Any], *, is_base64: bool) -> object:
    return to_base64_many(array.reshape(1, -1))[0].decode() if is_base64 else array


EMBEDDINGS = Dialect(
    speakers=frozenset({"openai", "jina"}),
    paths=("/v1/embeddings", "/embeddings"),
    summary="Embed texts",
    request=EmbeddingRequest,
    response=EmbeddingResponse,
    error=SharedErrorResponse,
    parse=parse,
    render=render,
    render_error=render_shared_error,
    rows=Rows(Embedding, row_dicts),
)


def _options_of(call: EmbeddingRequest) -> EmbedOptions:
    if isinstance(call.truncate, str):
        truncate = Truncate(call.truncate)
    else:
        truncate = Truncate.END if call.truncate else Truncate.NONE
    return EmbedOptions(
        prompt_name=_prompt_name_of(call),
        instruction=call.instruction,
        dimensions=call.dimensions,
        normalize=_normalize_of(call),
        truncate=truncate,
        priority=Priority(call.priority or Priority.NORMAL),
        outputs=_outputs_of(call),
        expect_fingerprint=call.expect_fingerprint,
        skips_failed=call.on_error == SKIP,
        fallback=call.fallback,
    )


def _outputs_of(call: EmbeddingRequest) -> tuple[str, ...]:
    """The kinds asked for, each once; whether the model has them is said by the service."""
    if call.outputs is not None and call.embedding_types is not None:
        raise InvalidInput("outputs and embedding_types ask for the same: send one of them", param="outputs")
    name = "outputs" if call.embedding_types is None else "embedding_types"
    given = call.outputs if call.embedding_types is None else call.embedding_types
    if given is None:
        return (DENSE,)
    if call.output_dtype is not None and not {DENSE, FLOAT} & set(given):
        raise InvalidInput("output_dtype is for dense vectors: ask for them too, or leave it out", param="output_dtype")
    if not given:
        raise InvalidInput(f"{name} is empty: name what to give, or leave out the field", param=name)
    return tuple(dict.fromkeys(DENSE if kind == FLOAT else shorten(kind) for kind in given))


def _normalize_of(call: EmbeddingRequest) -> bool | None:
    if call.output_dtype is None or not call.output_dtype.is_of_unit_vectors:
        return call.normalize
    if call.normalize is False:
        raise InvalidInput(
            f"output_dtype {call.output_dtype} is of vectors of unit length: leave out normalize", param="output_dtype"
        )
    return True


def _prompt_name_of(call: EmbeddingRequest) -> str | None:
    """The prompt by its name, or by the role of the inputs."""
    if call.input_type is None:
        return call.prompt_name
    role = INPUT_TYPES.get(call.input_type)
    if role is None:
        raise InvalidInput(
            f"input_type {shorten(call.input_type)!r} is not known: use {', '.join(INPUT_TYPES)}",
            param="input_type",
        )
    if call.prompt_name not in (None, role):
        raise InvalidInput(
            f"input_type asks for prompt {role!r} and prompt_name for another: send one of them",
            param="prompt_name",
        )
    return role
