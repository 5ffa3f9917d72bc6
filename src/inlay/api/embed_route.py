"""A dialect's route: its request goes to the service, its result comes back in its own words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Generic, TypeVar

import msgspec

from inlay.api.dialects.dialect import Dialect
from inlay.api.exchange import Exchange
from inlay.api.replies import Reply
from inlay.errors import InvalidInput
from inlay.serving.service import Service
from inlay.telemetry.metrics import Metrics

C = TypeVar("C", bound=msgspec.Struct)


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

    async def handle(self, call: C, exchange: Exchange, deadline: float) -> Reply:
        request = self._dialect.parse(call, exchange)
        self._check_inputs(request.inputs)
        request = replace(request, deadline=deadline, departed=exchange.departed)
        result = await self._service.embed(request)
        self._metrics.count_result(result)
        return self._dialect.render(result, call)

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
