"""What a server refuses of a request before anything is done for it: too many inputs, or of a kind it does not take."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from inlay.errors import EmptyInput, InvalidInput
from inlay.requests import DecodeRequest, EmbedRequest, PairsRequest, RankRequest, TokenizeRequest


def embed_check(max_inputs: int, *, allow_token_ids: bool) -> Callable[[EmbedRequest], None]:
    """`InvalidInput` for no inputs, for too many, and for token ids where they are not taken."""

    def check(request: EmbedRequest) -> None:
        inputs = request.inputs
        _check_number(inputs, max_inputs, "input")
        texts = [index for index, value in enumerate(inputs) if isinstance(value, str)]
        if len(texts) == len(inputs):
            return
        if texts:
            place = texts[0]
            raise InvalidInput(
                f"input[{place}] is a text among lists of token ids: send one kind", param=f"input[{place}]"
            )
        if not allow_token_ids:
            raise InvalidInput(
                "input has token ids, which this server takes for those of another model's tokenizer: send "
                "texts (LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False)), or start the server "
                "with --allow-token-ids",
                param="input",
            )

    return check


def rank_check(max_inputs: int) -> Callable[[RankRequest], None]:
    """`InvalidInput` for no documents, or too many."""
    return lambda request: _check_number(request.documents, max_inputs, "documents")


def pairs_check(max_inputs: int) -> Callable[[PairsRequest], None]:
    """`InvalidInput` for no pairs, or too many."""
    return lambda request: _check_number(request.pairs, max_inputs, "pairs")


def tokenize_check(max_inputs: int) -> Callable[[TokenizeRequest], None]:
    """`InvalidInput` for no texts, or too many."""
    return lambda request: _check_number(request.texts, max_inputs, "input")


def decode_check(max_inputs: int) -> Callable[[DecodeRequest], None]:
    """`InvalidInput` for no lists, or too many."""
    return lambda request: _check_number(request.lists, max_inputs, "ids")


def _check_number(inputs: Sequence[object], max_inputs: int, field: str) -> None:
    if not inputs:
        raise EmptyInput(f"{field} is an empty list: send at least one text", param=field)
    if len(inputs) > max_inputs:
        raise InvalidInput(
            f"{len(inputs)} inputs are more than the {max_inputs} that one request may have: "
            "send them in parts, or raise --max-inputs-per-request",
            param=field,
        )
