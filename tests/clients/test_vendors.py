"""The vendors' own clients, unpatched: order, usage, types that they decode themselves, and their exceptions."""

from __future__ import annotations

import cohere
import httpx
import huggingface_hub
import numpy as np
import ollama
import openai
import pytest
import voyageai
from conftest import DOCUMENTS, KEY, TEXTS, full

LONG = "stone " * 600
Floats = list[list[float]]


def test_openai(url: str, floats: Floats) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY)
    for name in ("demo", "text-embedding-3-small"):
        reply = client.embeddings.create(model=name, input=TEXTS)
        np.testing.assert_allclose([row.embedding for row in reply.data], floats, atol=1e-7)
        assert [row.index for row in reply.data] == [0, 1, 2]
        assert reply.usage.prompt_tokens == reply.usage.total_tokens > 0
    with pytest.raises(openai.BadRequestError, match="tokens"):
        client.embeddings.create(model="demo", input=LONG)
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="nobody", input="a")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong").embeddings.create(model="demo", input="a")


def test_openai_on_a_full_server(open_url: str) -> None:
    client = openai.OpenAI(base_url=f"{open_url}/v1", api_key="none", max_retries=0)
    with full(open_url), pytest.raises(openai.RateLimitError):
        client.embeddings.create(model="demo", input="one more")


def test_cohere_version_2(url: str, floats: Floats) -> None:
    client = cohere.ClientV2(KEY, base_url=url)
    reply = client.embed(
        texts=TEXTS, model="demo", input_type="search_document", embedding_types=["float", "int8", "ubinary"]
    )
    np.testing.assert_allclose(reply.embeddings.float_, floats, atol=1e-7)
    assert np.array(reply.embeddings.int8).shape == (3, 384)
    assert np.array_equal(np.unpackbits(np.array(reply.embeddings.ubinary, np.uint8), axis=1), np.array(floats) > 0)
    assert reply.meta.billed_units.input_tokens > 0
    ranked = client.rerank(query="hello", documents=DOCUMENTS, model="ranker", top_n=2)
    assert [row.relevance_score for row in ranked.results] == sorted(
        (row.relevance_score for row in ranked.results), reverse=True
    )
    assert len(ranked.results) == 2
    with pytest.raises(cohere.errors.BadRequestError):
        client.embed(texts=[""], model="demo", input_type="search_document")
    with pytest.raises(cohere.errors.NotFoundError):
        client.embed(texts=["a"], model="nobody", input_type="search_document")
    with pytest.raises(cohere.errors.UnauthorizedError):
        cohere.ClientV2("wrong", base_url=url).embed(texts=["a"], model="demo", input_type="search_document")


def test_cohere_version_1(url: str, floats: Floats) -> None:
    client = cohere.Client(KEY, base_url=url)
    plain = client.embed(texts=TEXTS, model="demo", input_type="search_document")
    np.testing.assert_allclose(plain.embeddings, floats, atol=1e-7)
    by_type = client.embed(texts=TEXTS * 40, model="demo", input_type="search_document", embedding_types=["float"])
    np.testing.assert_allclose(by_type.embeddings.float_, floats * 40, atol=1e-7)  # in batches of 96
    ranked = client.rerank(query="hello", documents=DOCUMENTS, model="ranker", return_documents=True)
    assert {row.document.text for row in ranked.results} == set(DOCUMENTS)
    assert len(client.tokenize(text="a stone", model="demo", offline=False).tokens) == 2


def test_cohere_on_a_full_server(open_url: str) -> None:
    client = cohere.ClientV2("none", base_url=open_url)
    with full(open_url), pytest.raises(cohere.errors.TooManyRequestsError):
        client.embed(texts=["one more"], model="demo", input_type="search_query", request_options={"max_retries": 0})


def test_voyage(url: str, floats: Floats) -> None:
    client = voyageai.Client(api_key=KEY, base_url=f"{url}/v1")
    reply = client.embed(TEXTS, model="demo", input_type="document")
    np.testing.assert_allclose(reply.embeddings, floats, atol=1e-7)
    assert reply.total_tokens > 0
    for kind, width in (("int8", 384), ("uint8", 384), ("binary", 48), ("ubinary", 48)):
        found = client.embed(TEXTS, model="demo", output_dtype=kind).embeddings
        assert np.array(found).shape == (3, width)
    ranked = client.rerank("hello", DOCUMENTS, model="ranker", top_k=2)
    assert [row.document for row in ranked.results] == [DOCUMENTS[row.index] for row in ranked.results]
    with pytest.raises(voyageai.error.InvalidRequestError, match="tokens"):
        client.embed([LONG], model="demo", truncation=False)
    with pytest.raises(voyageai.error.AuthenticationError):
        voyageai.Client(api_key="wrong", base_url=f"{url}/v1").embed(["a"], model="demo")


def test_voyage_on_a_full_server(open_url: str) -> None:
    client = voyageai.Client(api_key="none", base_url=f"{open_url}/v1", max_retries=0)
    with full(open_url), pytest.raises(voyageai.error.RateLimitError):
        client.embed(["one more"], model="demo")


@pytest.mark.parametrize("path", ["", "/embed"])
def test_hugging_face(url: str, floats: Floats, path: str) -> None:
    client = huggingface_hub.InferenceClient(model=url + path, token=KEY)
    np.testing.assert_allclose(client.feature_extraction(TEXTS), floats, atol=1e-6)
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError, match="empty"):
        client.feature_extraction("")
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError):
        huggingface_hub.InferenceClient(model=url + path, token="wrong").feature_extraction("a")


@pytest.mark.parametrize("path", ["", "/similarity"])
def test_hugging_face_compares_sentences(url: str, floats: Floats, path: str) -> None:
    client = huggingface_hub.InferenceClient(model=url + path, token=KEY)
    found = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:])
    np.testing.assert_allclose(found, np.array(floats)[1:] @ np.array(floats)[0], atol=1e-5)


def test_ollama(url: str, floats: Floats) -> None:
    client = ollama.Client(host=url, headers={"authorization": f"Bearer {KEY}"})
    reply = client.embed(model="demo", input=TEXTS)
    np.testing.assert_allclose(reply.embeddings, floats, atol=1e-7)
    assert reply.prompt_eval_count > 0
    assert [model.model for model in client.list().models] == ["demo:latest", "ranker:latest"]
    assert "embedding" in client.show("demo").capabilities
    np.testing.assert_allclose(client.embeddings(model="demo:latest", prompt=TEXTS[0]).embedding, floats[0], atol=1e-7)
    for model, status in (("nobody", 404), ("ranker", 400)):
        with pytest.raises(ollama.ResponseError) as caught:
            client.embed(model=model, input="a")
        assert caught.value.status_code == status
    with pytest.raises(ollama.ResponseError, match="API key"):
        ollama.Client(host=url).embed(model="demo", input="a")


def test_ollama_on_a_full_server(open_url: str) -> None:
    with full(open_url), pytest.raises(ollama.ResponseError) as caught:
        ollama.Client(host=open_url).embed(model="demo", input="one more")
    assert caught.value.status_code == 429


def test_plain_http_of_a_full_server_says_when_to_come_back(open_url: str) -> None:
    with full(open_url):
        reply = httpx.post(f"{open_url}/embed", json={"inputs": "one more"})
    assert (reply.status_code, reply.json()["error_type"]) == (429, "Overloaded")
    assert int(reply.headers["retry-after"]) >= 1
