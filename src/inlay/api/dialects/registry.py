"""The dialects that are spoken: by the path, and by the names that `--dialects` knows."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from inlay.api.dialects import cohere, jina, ollama, openai, rerank, tei, vllm, voyage
from inlay.api.dialects.dialect import Dialect
from inlay.errors import ConfigError

# On a path that several have, the first takes what no other claims, and claims are asked in this order.
DIALECTS: tuple[Dialect[Any, Any, Any], ...] = (
    openai.EMBEDDINGS,
    voyage.EMBEDDINGS,
    jina.EMBEDDINGS,
    rerank.RERANK,
    voyage.RERANK,
    cohere.EMBED_V2,
    cohere.EMBED_V1,
    cohere.RERANK,
    tei.EMBED,
    tei.RERANK,
    tei.SIMILARITY,
    tei.EMBED_ALL,
    tei.SPARSE_EMBED,
    tei.PREDICT,
    vllm.TOKENIZE,
    tei.TOKENIZE,
    tei.DECODE,
    vllm.SCORE,
    vllm.POOLING,
    vllm.DETOKENIZE,
    cohere.TOKENIZE,
    ollama.EMBED,
    ollama.EMBEDDINGS,
)
NAMES = ("openai", "tei", "cohere", "jina", "voyage", "ollama", "vllm")


def by_path(spoken: Collection[str]) -> dict[str, list[Dialect[Any, Any, Any]]]:
    """The dialects of each path, of those that are spoken; `ConfigError` for a name that none has."""
    for name in spoken:
        if name not in NAMES:
            raise ConfigError(f"--dialects {name}: there is no such dialect; use {', '.join(NAMES)}")
    found: dict[str, list[Dialect[Any, Any, Any]]] = {}
    for dialect in DIALECTS:
        if not dialect.speakers.isdisjoint(spoken):
            for path in dialect.paths:
                found.setdefault(path, []).append(dialect)
    return found
