"""The parts of bodies that Inlay's own routes share with OpenAI's: usage, and errors.

In: what a request cost, or an error of the tree. Out: JSON as `openai` clients read it.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from inlay.api.replies import Reply
from inlay.errors import InlayError

MAY_FALL_BACK = "May the model's fallback answer where it cannot itself? Default: as the server has it."
EXPECT_FINGERPRINT = (
    "The model's fingerprint that earlier vectors or scores have: another is refused with 409. Also a header, "
    "x-inlay-expect-fingerprint."
)
ON_ERROR = "fail, the default, refuses the request for an input at fault; skip gives its error in its place."
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class PromptTokensDetails(Struct):
    cached_tokens: int


class Usage(Struct):
    """Tokens of all inputs, special tokens and prompts included."""

    prompt_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ErrorBody(Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Struct):
    error: ErrorBody


class SharedErrorResponse(ErrorResponse):
    """On paths that Jina's clients ask, too, who read `detail`."""

    detail: str


def usage_of(num_tokens: int, cached_tokens: int) -> dict[str, Any]:
    """`Usage` as JSON takes it."""
    return {
        "prompt_tokens": num_tokens,
        "total_tokens": num_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def render_error(error: InlayError) -> Reply:
    """`{"error": {message, type, param, code}}`."""
    return Reply.of_json({"error": body_of(error)}, error.status)


def render_shared_error(error: InlayError) -> Reply:
    """The same with `detail` beside it."""
    return Reply.of_json({"error": body_of(error), "detail": error.message}, error.status)


def body_of(error: InlayError) -> dict[str, Any]:
    """`ErrorBody` as JSON takes it."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"message": error.message, "type": kind, "param": error.param, "code": error.code}
