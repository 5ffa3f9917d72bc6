"""LlamaIndex's `OpenAILikeEmbedding`, asking an Inlay server with the prompt of each text's role.

LlamaIndex knows queries from documents and may name a model for each; a name of Inlay's may carry a prompt
(`qwen:query`). All else (clients, retries, `dimensions`, `default_headers`) is LlamaIndex's.
"""

from __future__ import annotations

from typing import Any

from llama_index.embeddings.openai_like import OpenAILikeEmbedding


class InlayEmbedding(OpenAILikeEmbedding):  # type: ignore[misc]  # it has no types
    """`InlayEmbedding(model_name="qwen", api_base="http://HOST:8000/v1")`; `default_headers` for the cache."""

    def __init__(
        self,
        model_name: str,
        *,
        query_prompt: str = "query",
        document_prompt: str = "document",
        **arguments: Any,  # noqa: ANN401 - as they are declared there
    ) -> None:
        """The prompts are names of the model's own, see `/v1/models`, or roles."""
        super().__init__(model_name=model_name, **arguments)
        self._query_engine = f"{model_name}:{query_prompt}"
        self._text_engine = f"{model_name}:{document_prompt}"
