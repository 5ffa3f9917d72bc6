"""The dialects that are spoken."""

from __future__ import annotations

from typing import Any

from inlay.api.dialects import openai, rerank
from inlay.api.dialects.dialect import Dialect
from inlay.requests import EmbedRequest, EmbedResult, RankRequest, RankResult

EMBED_DIALECTS: tuple[Dialect[Any, EmbedRequest, EmbedResult], ...] = (openai.EMBEDDINGS,)
RANK_DIALECTS: tuple[Dialect[Any, RankRequest, RankResult], ...] = (rerank.RERANK,)
