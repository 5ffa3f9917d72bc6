"""Frameworks' texts get the prompts of their roles, over a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import httpx
import numpy as np
import pytest
from servers import RunningServer

from inlay.integrations.langchain import InlayEmbeddings
from inlay.integrations.llama_index import InlayEmbedding

TEXT = "how do I size the cache"
MODELS = ["demo", "tiny-qwen3"]


def vector_of(server: RunningServer, model: str, role: str, **more: Any) -> list[float]:
    body = {"model": model, "input": TEXT, "input_type": role, **more}
    vector: list[float] = server.post(body).json()["data"][0]["embedding"]
    return vector


async def asked(embeddings: InlayEmbeddings, answer: Awaitable[Any]) -> Any:
    """The answer, with the client closed that it came by: it belongs to this event loop."""
    try:
        return await answer
    finally:
        await embeddings.async_client._client.close()


@pytest.mark.parametrize("model", MODELS)
def test_langchain_tells_queries_from_documents(server: RunningServer, model: str) -> None:
    embeddings = InlayEmbeddings(model=model, base_url=f"{server.url}/v1", api_key="none")
    query, document = vector_of(server, model, "query"), vector_of(server, model, "document")
    assert (query == document) == (model == "demo"), "one has prompts, the other has none"
    np.testing.assert_allclose(embeddings.embed_query(TEXT), query, atol=1e-6)
    np.testing.assert_allclose(embeddings.embed_documents([TEXT, "b"])[0], document, atol=1e-6)
    np.testing.assert_allclose(asyncio.run(asked(embeddings, embeddings.aembed_query(TEXT))), query, atol=1e-6)
    np.testing.assert_allclose(embeddings.embed_query(TEXT, extra_body={"input_type": "document"}), document, atol=1e-6)


def test_langchains_own_options_stay(server: RunningServer) -> None:
    headers = {"cache-control": "no-store"}
    embeddings = InlayEmbeddings(
        model="tiny-qwen3", base_url=f"{server.url}/v1", api_key="none", dimensions=32, default_headers=headers
    )
    found = asyncio.run(asked(embeddings, embeddings.aembed_documents([TEXT])))[0]
    np.testing.assert_allclose(found, vector_of(server, "tiny-qwen3", "document", dimensions=32), atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_llama_index_tells_queries_from_documents(server: RunningServer, model: str) -> None:
    embedding = InlayEmbedding(model, api_base=f"{server.url}/v1", api_key="none")
    query, document = vector_of(server, model, "query"), vector_of(server, model, "document")
    np.testing.assert_allclose(embedding.get_query_embedding(TEXT), query, atol=1e-6)
    np.testing.assert_allclose(embedding.get_text_embedding(TEXT), document, atol=1e-6)
    np.testing.assert_allclose(embedding.get_text_embedding_batch([TEXT, "b"])[0], document, atol=1e-6)

    async def ask() -> list[float]:
        async with httpx.AsyncClient() as client:
            own = InlayEmbedding(model, api_base=f"{server.url}/v1", api_key="none", async_http_client=client)
            return await own.aget_query_embedding(TEXT)

    np.testing.assert_allclose(asyncio.run(ask()), query, atol=1e-6)
