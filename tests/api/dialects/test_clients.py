"""The clients that people use, as they come from PyPI, over a socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import openai
import pytest
import tiktoken
import tiktoken.registry
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from servers import RunningServer

from inlay import Embedder

TEXTS = ["one text", "and another text", "one text"]


@pytest.fixture(scope="module")
def expected() -> Iterator[np.ndarray]:
    with Embedder("demo") as embedder:
        yield embedder.embed(TEXTS)


@pytest.fixture
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as made:
        yield made


def test_openai_by_default_in_base64(client: openai.OpenAI, expected: np.ndarray) -> None:
    reply = client.embeddings.create(model="demo", input=TEXTS)
    assert np.array_equal(np.array([row.embedding for row in reply.data], dtype=np.float32), expected)
    assert [row.index for row in reply.data] == [0, 1, 2]
    assert reply.usage.prompt_tokens == 4 + 5 + 4
    assert reply.model == "demo"


def test_openai_with_floats(client: openai.OpenAI, expected: np.ndarray) -> None:
    reply = client.embeddings.create(model="demo", input=TEXTS, encoding_format="float")
    assert np.array_equal(np.array([row.embedding for row in reply.data], dtype=np.float32), expected)


def test_openai_with_dimensions_and_extensions(client: openai.OpenAI) -> None:
    reply = client.embeddings.create(
        model="tiny-qwen3", input="look", dimensions=32, extra_body={"input_type": "query"}
    )
    named = client.embeddings.create(model="tiny-qwen3:query", input="look", dimensions=32)
    assert len(reply.data[0].embedding) == 32
    assert reply.data[0].embedding == named.data[0].embedding


def test_openai_asynchronous_and_many_at_once(server: RunningServer, expected: np.ndarray) -> None:
    async def ask() -> list[list[float]]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            calls = (client.embeddings.create(model="demo", input=text) for text in TEXTS * 10)
            return [reply.data[0].embedding for reply in await asyncio.gather(*calls)]

    assert np.array_equal(np.array(asyncio.run(ask()), dtype=np.float32), np.tile(expected, (10, 1)))


def test_openai_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="not served here") as missing:
        client.embeddings.create(model="text-embedding-3-small", input="x")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.embeddings.create(model="demo", input=["x", ""])
    assert bad.value.param == "input[1]"
    assert bad.value.request_id


def test_openai_lists_the_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo", "tiny-qwen3"]
    assert client.models.retrieve("demo").id == "demo"


def test_openai_sends_its_key() -> None:
    with RunningServer("demo", "--api-key", "right") as server:
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="right").embeddings.create(model="demo", input="x")
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong").embeddings.create(model="demo", input="x")


def test_openai_retries_a_refusal_and_gets_its_answer() -> None:
    """One slot, and more callers than slots: the client comes back when told to, and all are served."""
    with RunningServer("demo", "--max-concurrent-requests", "1", "--cache", "none") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=20)
        answers: list[int] = []

        def ask(number: int) -> None:
            reply = client.embeddings.create(model="demo", input=[f"{number} {i}" for i in range(64)])
            answers.append(len(reply.data))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [64] * 4
        assert 'status="429"' in server.get("/metrics").text


def test_langchain_without_its_own_tokenizer(server: RunningServer, expected: np.ndarray) -> None:
    embeddings = OpenAIEmbeddings(
        base_url=f"{server.url}/v1", api_key="none", model="demo", check_embedding_ctx_length=False
    )
    assert np.array_equal(np.array(embeddings.embed_documents(TEXTS), dtype=np.float32), expected)
    assert np.array_equal(np.array(embeddings.embed_query(TEXTS[0]), dtype=np.float32), expected[0])


def test_langchain_with_another_tokenizers_ids_is_refused_with_the_remedy(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bytes_only = tiktoken.Encoding(
        "cl100k_base",  # the name it asks for; the real table would have to be downloaded
        pat_str=r"[\s\S]",
        mergeable_ranks={bytes([value]): value for value in range(256)},
        special_tokens={},
    )
    monkeypatch.setitem(tiktoken.registry.ENCODINGS, "cl100k_base", bytes_only)
    embeddings = OpenAIEmbeddings(base_url=f"{server.url}/v1", api_key="none", model="demo")
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        embeddings.embed_documents(TEXTS)


def test_llama_index(server: RunningServer, expected: np.ndarray) -> None:
    embeddings = OpenAILikeEmbedding(model_name="demo", api_base=f"{server.url}/v1", api_key="none")
    assert np.array_equal(np.array(embeddings.get_text_embedding_batch(TEXTS), dtype=np.float32), expected)
    assert np.array_equal(np.array(embeddings.get_query_embedding(TEXTS[0]), dtype=np.float32), expected[0])


def test_a_client_with_one_slow_byte_at_a_time_is_answered(server: RunningServer) -> None:
    """A chunked body, as some clients send it."""
    import httpx

    def parts() -> Iterator[bytes]:
        for byte in b'{"input": "in small pieces"}':
            yield bytes([byte])

    assert httpx.post(f"{server.url}/v1/embeddings", content=parts()).status_code == 200
