"""A dialect's route: its request goes to the service, its result comes back in its own words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec
from msgspec.structs import replace

from inlay.api.dialects.dialect import Dialect
from inlay.api.exchange import Exchange, header
from inlay.api.json_route import Body
from inlay.api.repeated import LARGEST, RepeatedReplies
from inlay.api.replies import Headers, Reply
from inlay.errors import InlayError, InvalidInput
from inlay.serving.service import Service
from inlay.telemetry.metrics import Metrics
from inlay.types import EmbedRequest, EmbedResult

C = TypeVar("C", bound=msgspec.Struct)

CACHE_CONTROL = b"cache-control"
NAMED_TRUNCATED = 64  # indices listed in the header


class EmbedRoute(Generic[C]):
    """Answers the calls of one dialect."""

    def __init__(
        self, dialect: Dialect[C], service: Service, metrics: Metrics, *, max_inputs: int, allow_token_ids: bool
    ) -> None:
        self._dialect = dialect
        self._service = service
        self._metrics = metrics
        self._max_inputs = max_inputs
        self._allow_token_ids = allow_token_ids
        self._repeated = RepeatedReplies()

    def recall(self, body: Body, exchange: Exchange) -> Reply | None:
        """The reply to a body that came before and that the cache has answered; None where it is to be worked out."""
        if len(body) > LARGEST or header(exchange.scope, CACHE_CONTROL) is not None:
            return None  # a large body is not even copied
        known = self._repeated.find(bytes(body))
        if known is None:
            return None
        reply, result = known
        self._metrics.count_repeated(result)
        return reply

    async def handle(self, call: C, body: Body | None, exchange: Exchange, deadline: float) -> Reply:
        try:
            request = self._dialect.parse(call)
            self._check_inputs(request.inputs)
            request = _completed(request, exchange, deadline)
            result = await self._service.embed(request)
        except InlayError as error:
            raise error.renamed(self._dialect.names) from error
        self._metrics.count_result(result)
        reply = self._dialect.render(result, call)
        reply.headers.extend(result_headers(result))
        if body is not None and request.options.write_cache:
            self._repeated.keep(bytes(body), reply, result)
        return reply

    def _check_inputs(self, inputs: Sequence[str | list[int]]) -> None:
        """`InvalidInput` for none, for too many, and for token ids where they are not taken."""
        if not inputs:
            raise InvalidInput("input is an empty list: send at least one text", param="input")
        if len(inputs) > self._max_inputs:
            raise InvalidInput(
                f"{len(inputs)} inputs are more than the {self._max_inputs} that one request may have: "
                "send them in parts, or raise --max-inputs-per-request",
                param="input",
            )
        texts = [index for index, value in enumerate(inputs) if isinstance(value, str)]
        if len(texts) == len(inputs):
            return
        if texts:
            place = texts[0]
            raise InvalidInput(
                f"input[{place}] is a text among lists of token ids: send one kind", param=f"input[{place}]"
            )
        if not self._allow_token_ids:
            raise InvalidInput(
                "input has token ids, which this server takes for those of another model's tokenizer: send "
                "texts (LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False)), or start the server "
                "with --allow-token-ids",
                param="input",
            )


def _completed(request: EmbedRequest, exchange: Exchange, deadline: float) -> EmbedRequest:
    """The request with what no dialect has to say: its time, its client, and `Cache-Control`."""
    options = request.options
    if asked := exchange.directives(CACHE_CONTROL):
        no_store = "no-store" in asked
        options = replace(options, read_cache=not (no_store or "no-cache" in asked), write_cache=not no_store)
    return EmbedRequest(request.model, request.inputs, options, deadline, exchange.departed)


def result_headers(result: EmbedResult) -> Headers:
    """Where the time went, whether the cache answered, and which inputs were cut."""
    headers = [
        (b"x-inlay-queue-ms", b"%.2f" % (result.queue_seconds * 1000)),
        (b"x-inlay-model-ms", b"%.2f" % (result.model_seconds * 1000)),
        (b"x-inlay-cache", result.cache_status.encode()),
    ]
    if result.truncated:
        more = ",..." if len(result.truncated) > NAMED_TRUNCATED else ""
        listed = ",".join(str(index) for index in result.truncated[:NAMED_TRUNCATED])
        headers.append((b"x-inlay-truncated", (listed + more).encode()))
    return headers
