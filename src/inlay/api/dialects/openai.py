"""OpenAI's dialect: `POST /v1/embeddings` and `GET /v1/models`, with Inlay's extensions for plain clients.

In: bytes. Out: an `EmbedRequest` for the service, and its result as bytes. The route is plain ASGI with
msgspec structs, the cheapest way there is, because a cached vector should cost no more than its transport.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

import msgspec
import orjson
from msgspec import Raw
from starlette.types import Receive, Scope, Send

from inlay.api.body import BodyReader, directives, wait_for_departure
from inlay.api.dialects.openai_schema import EmbeddingRequest, StrictEmbeddingRequest
from inlay.errors import InvalidInput, RequestError, TooLarge, shorten
from inlay.models.prompts import DOCUMENT, QUERY
from inlay.serving.admission import Admission, ByteBudget
from inlay.serving.service import Service
from inlay.serving.shaping import to_base64
from inlay.telemetry.metrics import Metrics
from inlay.types import EmbedOptions, EmbedRequest, EmbedResult, ModelSpec, Priority, Truncate

BASE64, FLOAT = "base64", "float"
INPUT_TYPES = {
    "query": QUERY,
    "document": DOCUMENT,
    "passage": DOCUMENT,
    "search_query": QUERY,
    "search_document": DOCUMENT,
}
LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
LARGE_BODY = 1 << 20  # bytes, from which on values are counted before they are decoded
MOST_VALUES = 1 << 20
# A string that is never closed goes to the end, so that nothing is looked at twice.
_STRING_OR_COMMA = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|,', re.DOTALL)
NAMED_TRUNCATED = 64  # indices listed in the header
CHOICES = {
    "encoding_format": (FLOAT, BASE64),
    "truncate": tuple(Truncate),
    "priority": tuple(Priority),
}
_PATH = re.compile(r" - at `\$\.?(.*)`$")


class EmbeddingsRoute:
    """`POST /v1/embeddings`."""

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        admission: Admission,
        budget: ByteBudget,
        *,
        max_body_bytes: int,
        max_inputs: int,
        request_timeout: float,
        allow_token_ids: bool,
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._admission = admission
        self._budget = budget
        self._max_body_bytes = max_body_bytes
        self._max_inputs = max_inputs
        self._timeout = request_timeout
        self._allow_token_ids = allow_token_ids
        self._strict = msgspec.json.Decoder(StrictEmbeddingRequest)
        self._decoder = msgspec.json.Decoder(EmbeddingRequest)
        self._fields = msgspec.json.Decoder(dict[str, Raw])
        self._known = frozenset(EmbeddingRequest.__struct_fields__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with BodyReader(self._budget, self._max_body_bytes) as reader:
            call = self._parse(await reader.read(scope, receive))  # a slow sender takes nobody's place
            with self._admission:
                headers, encoded = await self._answer(call, scope, receive)
        await send({"type": "http.response.start", "status": 200, "headers": headers})  # nor does a slow reader
        await send({"type": "http.response.body", "body": encoded})

    async def _answer(
        self, call: EmbeddingRequest, scope: Scope, receive: Receive
    ) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Head and body of the reply."""
        deadline = time.monotonic() + self._timeout
        inputs = self._check_inputs(call.input)
        request = EmbedRequest(
            model=call.model,
            inputs=inputs,
            options=_options(call, directives(scope, b"cache-control")),
            deadline=deadline,
            departed=lambda: wait_for_departure(receive),
        )
        result = await self._service.embed(request)
        self._metrics.count_result(result)
        encoded = encode_result(result, call.encoding_format or FLOAT, bool(call.include_tokens))
        return result_headers(result, len(encoded)), encoded

    def _parse(self, body: bytes | bytearray) -> EmbeddingRequest:
        check_values(body)
        try:
            return self._decode(body)
        except msgspec.ValidationError as error:
            raise wrong_field(str(error)) from error
        except (ValueError, RecursionError) as error:  # msgspec's and json's errors are ValueErrors
            raise RequestError(f"the body is not valid JSON: {error}") from error

    def _decode(self, body: bytes | bytearray) -> EmbeddingRequest:
        try:
            return self._strict.decode(body)
        except msgspec.ValidationError:
            call = self._decoder.decode(body)  # raises where more is wrong than a field that is not known
            is_large = len(body) > LARGE_BODY
            self._metrics.count_unknown_fields(1 if is_large else len(self._fields.decode(body).keys() - self._known))
            return call
        except msgspec.DecodeError:
            if LONE_SURROGATE.search(body) is None:
                raise
            # The standard library reads half a surrogate pair, and then the input with it can be named.
            return msgspec.convert(json.loads(body), EmbeddingRequest)

    def _check_inputs(self, given: str | list[str | int | list[int]]) -> list[str | list[int]]:
        """The inputs as a list of texts, or of lists of token ids."""
        if isinstance(given, str):
            return [given]
        if not given:
            raise InvalidInput("input is an empty list: send at least one text", param="input")
        ids = [value for value in given if isinstance(value, int)]
        inputs: list[str | list[int]] = [value for value in given if not isinstance(value, int)]
        if ids:
            if inputs:
                place = next(i for i, value in enumerate(given) if isinstance(value, int))
                raise InvalidInput(f"input[{place}] must be a text, not a number", param=f"input[{place}]")
            inputs = [ids]
        if len(inputs) > self._max_inputs:
            raise InvalidInput(
                f"{len(inputs)} inputs are more than the {self._max_inputs} that one request may have: "
                "send them in parts, or raise --max-inputs-per-request",
                param="input",
            )
        if any(isinstance(value, list) for value in inputs):
            self._check_ids(inputs)
        return inputs

    def _check_ids(self, inputs: list[str | list[int]]) -> None:
        for index, value in enumerate(inputs):
            if isinstance(value, str):
                raise InvalidInput(
                    f"input[{index}] is a text among lists of token ids: send one kind", param=f"input[{index}]"
                )
        if not self._allow_token_ids:
            raise InvalidInput(
                "input has token ids, which this server takes for those of another model's tokenizer: send "
                "texts (LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False)), or start the server "
                "with --allow-token-ids",
                param="input",
            )


def check_values(body: bytes | bytearray) -> None:
    """Refuse a large body of very many values before they are decoded: each takes many times its bytes in memory."""
    if len(body) <= LARGE_BODY or body.count(b",") <= MOST_VALUES:
        return
    number = 0
    for found in _STRING_OR_COMMA.finditer(body):
        number += found.end() - found.start() == 1
        if number > MOST_VALUES:
            raise TooLarge(f"the body has over {MOST_VALUES} values: send fewer inputs at a time")


def _options(call: EmbeddingRequest, cache_control: frozenset[str]) -> EmbedOptions:
    prompt_name = call.prompt_name
    if call.input_type is not None:
        role = INPUT_TYPES.get(call.input_type)
        if role is None:
            raise InvalidInput(
                f"input_type {shorten(call.input_type)!r} is not known: use {', '.join(INPUT_TYPES)}",
                param="input_type",
            )
        if prompt_name not in (None, role):
            raise InvalidInput(
                f"input_type asks for prompt {role!r} and prompt_name for another: send one of them",
                param="prompt_name",
            )
        prompt_name = role
    if isinstance(call.truncate, str):
        truncate = Truncate(call.truncate)
    else:
        truncate = Truncate.END if call.truncate else Truncate.NONE
    return EmbedOptions(
        prompt_name=prompt_name,
        instruction=call.instruction,
        dimensions=call.dimensions,
        normalize=call.normalize,
        truncate=truncate,
        priority=Priority(call.priority or Priority.NORMAL),
        read_cache="no-cache" not in cache_control and "no-store" not in cache_control,
        write_cache="no-store" not in cache_control,
    )


def wrong_field(message: str) -> InvalidInput:
    """msgspec's message, with the place taken out of it and put first."""
    found = _PATH.search(message)
    if found is None or not found[1]:
        missing = "input" if "`input`" in message else None
        return InvalidInput(f"the body is off: {message}", param=missing)
    place = found[1]
    reason = message[: found.start()]
    if place in CHOICES and reason.startswith("Invalid enum value"):
        reason += f"; use {', '.join(CHOICES[place])}"
    return InvalidInput(f"{place} is off: {reason}", param=place)


def encode_result(result: EmbedResult, encoding_format: str, includes_tokens: bool = False) -> bytes:
    """The body of the answer."""
    if encoding_format == BASE64:
        embeddings: list[Any] = [to_base64(vector) for vector in result.vectors]
    else:
        embeddings = list(result.vectors)
    data = [
        {"object": "embedding", "index": index, "embedding": embedding} for index, embedding in enumerate(embeddings)
    ]
    if includes_tokens:
        for row, num_tokens in zip(data, result.item_tokens, strict=True):
            row["num_tokens"], row["is_truncated"] = num_tokens, row["index"] in result.truncated
    return orjson.dumps(
        {
            "object": "list",
            "data": data,
            "model": result.model,
            **({"fingerprint": result.fingerprint} if includes_tokens else {}),
            "usage": {
                "prompt_tokens": result.num_tokens,
                "total_tokens": result.num_tokens,
                "prompt_tokens_details": {"cached_tokens": result.cached_tokens},
            },
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def result_headers(result: EmbedResult, length: int) -> list[tuple[bytes, bytes]]:
    """Where the time went, whether the cache answered, and which inputs were cut."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % length),
        (b"x-inlay-queue-ms", b"%.2f" % (result.queue_seconds * 1000)),
        (b"x-inlay-model-ms", b"%.2f" % (result.model_seconds * 1000)),
        (b"x-inlay-cache", result.cache_status.encode()),
    ]
    if result.truncated:
        more = ",..." if len(result.truncated) > NAMED_TRUNCATED else ""
        listed = ",".join(str(index) for index in result.truncated[:NAMED_TRUNCATED])
        headers.append((b"x-inlay-truncated", (listed + more).encode()))
    return headers


def describe_model(spec: ModelSpec, created: int) -> dict[str, Any]:
    """One row of `GET /v1/models`."""
    smallest, largest = spec.matryoshka or (None, None)
    return {
        "id": spec.name,
        "object": "model",
        "created": created,
        "owned_by": "inlay",
        "family": spec.family,
        "width": spec.width,
        "max_tokens": spec.max_tokens,
        "pooling": spec.pooling,
        "prompts": dict(spec.prompts),
        "takes_instructions": spec.instruction_template is not None,
        "instruction_template": spec.instruction_template,
        "default_prompt": spec.default_prompt,
        "matryoshka": None if smallest is None else {"min": smallest, "max": largest},
        "dtype": spec.dtype or None,
        "fingerprint": spec.fingerprint or None,
    }
