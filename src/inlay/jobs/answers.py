"""What a line gets: the reply of its endpoint, or the reason why there is none; and how both are written down.

The form is OpenAI's: what went well into the one file, what did not into the other.
"""

from __future__ import annotations

import orjson
from msgspec import Struct

from inlay.errors import InlayError
from inlay.jobs.batch import Problem
from inlay.jobs.lines import Line

CANCELLED = Problem("batch_cancelled", "the batch was cancelled before this line was answered")
EXPIRED = Problem("batch_expired", "the batch expired before this line was answered")


class LineReply(Struct, frozen=True):
    """What an endpoint answers to one body, and what that took."""

    status: int
    body: bytes  # JSON
    num_tokens: int = 0
    cached_tokens: int = 0
    headers: dict[str, str] = {}  # that tell what the body does not, such as inputs that were cut
    error: InlayError | None = None

    @property
    def is_good(self) -> bool:
        return self.status < 400


def written_reply(batch_id: str, line: Line, reply: LineReply) -> bytes:
    """The line that answers another."""
    response = {
        "status_code": reply.status,
        "request_id": f"{batch_id}-{line.number}",
        "body": orjson.Fragment(reply.body),
        **({"headers": reply.headers} if reply.headers else {}),
    }
    return _written(batch_id, line.number, line.custom_id, response, None)


def written_problem(batch_id: str, line: Line | Problem, problem: Problem) -> bytes:
    """The line that says why another was not answered."""
    custom_id = line.custom_id if isinstance(line, Line) else None
    number = line.number if isinstance(line, Line) else line.line
    return _written(batch_id, number, custom_id, None, {"code": problem.code, "message": problem.message})


def _written(batch_id: str, number: int | None, custom_id: str | None, response: object, error: object) -> bytes:
    value = {"id": f"{batch_id}_{number}", "custom_id": custom_id, "response": response, "error": error}
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
