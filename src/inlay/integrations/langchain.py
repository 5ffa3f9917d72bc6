"""LangChain's `OpenAIEmbeddings`, asking an Inlay server with the role of each text.

LangChain knows queries from documents, OpenAI's API does not: its class sends both alike, and a model with prompts or
instructions then sees the wrong ones. All else (clients, retries, `dimensions`, `default_headers`) is LangChain's.
"""

from __future__ import annotations

from typing import Any

from langchain_openai import OpenAIEmbeddings


class InlayEmbeddings(OpenAIEmbeddings):
    """`InlayEmbeddings(model="qwen", base_url="http://HOST:8000/v1", api_key="…")`; `default_headers` for the cache."""

    check_embedding_ctx_length: bool = False  # texts, not the ids of another model's tokenizer

    def embed_documents(self, texts: list[str], chunk_size: int | None = None, **kwargs: Any) -> list[list[float]]:  # noqa: ANN401
        """Texts with the model's prompt for documents."""
        return super().embed_documents(texts, chunk_size, **_with_role("document", kwargs))

    async def aembed_documents(  # as it is declared there
        self,
        texts: list[str],
        chunk_size: int | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> list[list[float]]:
        """The same."""
        return await super().aembed_documents(texts, chunk_size, **_with_role("document", kwargs))

    def embed_query(self, text: str, **kwargs: Any) -> list[float]:  # noqa: ANN401
        """A text with the model's prompt for queries."""
        return super().embed_query(text, **_with_role("query", kwargs))

    async def aembed_query(self, text: str, **kwargs: Any) -> list[float]:  # noqa: ANN401
        """The same."""
        return await super().aembed_query(text, **_with_role("query", kwargs))


def _with_role(role: str, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a call with the role in its body, unless they have one: a query is embedded as a document is."""
    body = {"input_type": role, **(given.get("extra_body") or {})}
    return {**given, "extra_body": body}
