"""The dialects that are spoken, and the one in which errors are told where no dialect is known."""

from __future__ import annotations

from typing import Any

from inlay.api.dialects import openai
from inlay.api.dialects.dialect import Dialect
from inlay.api.dialects.openai_schema import ErrorResponse

DIALECTS: tuple[Dialect[Any], ...] = (openai.EMBEDDINGS,)
DEFAULT_ERROR = ErrorResponse
render_error = openai.render_error
