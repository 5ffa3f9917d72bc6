"""Frameworks over the vendors' clients: LiteLLM, LangChain, LlamaIndex and Haystack, unpatched."""

from __future__ import annotations

import litellm
import numpy as np
import pytest
from conftest import DOCUMENTS, KEY, TEXTS
from haystack.components.embedders import OpenAITextEmbedder
from haystack.utils import Secret
from langchain_cohere import CohereEmbeddings, CohereRerank
from langchain_core.documents import Document
from langchain_ollama import OllamaEmbeddings
from langchain_openai import OpenAIEmbeddings
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.cohere import CohereEmbedding
from llama_index.embeddings.jinaai import JinaEmbedding
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from llama_index.postprocessor.cohere_rerank import CohereRerank as LlamaCohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference as TEIRerank

Floats = list[list[float]]


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("openai/demo", "/v1"),
        ("cohere/demo", "/v2/embed"),
        ("jina_ai/demo", "/v1"),
        ("voyage/demo", "/v1"),
    ],
)
def test_litellm_embeds(url: str, floats: Floats, model: str, path: str) -> None:
    """Not `huggingface/`, which asks the hub what a model does before it sends anything."""
    reply = litellm.embedding(model=model, input=TEXTS, api_base=url + path, api_key=KEY)
    np.testing.assert_allclose([row["embedding"] for row in reply.data], floats, atol=1e-6)
    assert reply.usage.total_tokens > 0


def test_litellm_embeds_as_ollama_does(open_url: str, floats: Floats) -> None:
    reply = litellm.embedding(model="ollama/demo", input=TEXTS, api_base=open_url)  # it sends no key
    np.testing.assert_allclose([row["embedding"] for row in reply.data], floats, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("cohere/ranker", "/v2/rerank"),
        ("jina_ai/ranker", "/v1/rerank"),
        ("hosted_vllm/ranker", ""),
        ("huggingface/ranker", ""),
        ("voyage/ranker", "/v1/rerank"),
    ],
)
def test_litellm_reranks(url: str, model: str, path: str) -> None:
    reply = litellm.rerank(model=model, query="hello", documents=DOCUMENTS, top_n=2, api_base=url + path, api_key=KEY)
    rows = [dict(row) for row in reply.results]
    assert len(rows) == 2
    assert rows[0]["relevance_score"] >= rows[1]["relevance_score"]


def test_litellm_reranks_as_infinity_does(url: str) -> None:
    """Its body is that of vLLM's provider to the byte, and it wants documents in another shape: so without them."""
    asked = {"query": "hello", "documents": DOCUMENTS, "api_base": url, "api_key": KEY, "return_documents": False}
    assert len(litellm.rerank(model="infinity/ranker", **asked).results) == 3


def test_litellm_tells_errors_apart(url: str) -> None:
    with pytest.raises(litellm.exceptions.AuthenticationError):
        litellm.embedding(model="openai/demo", input=["a"], api_base=f"{url}/v1", api_key="wrong")
    with pytest.raises(litellm.exceptions.NotFoundError):
        litellm.embedding(model="openai/nobody", input=["a"], api_base=f"{url}/v1", api_key=KEY)


def test_langchain_openai(url: str, floats: Floats) -> None:
    made = OpenAIEmbeddings(model="demo", base_url=f"{url}/v1", api_key=KEY, check_embedding_ctx_length=False)
    np.testing.assert_allclose(made.embed_documents(TEXTS), floats, atol=1e-6)


def test_langchain_cohere(url: str, floats: Floats) -> None:
    made = CohereEmbeddings(model="demo", cohere_api_key=KEY, base_url=url)
    np.testing.assert_allclose(made.embed_documents(TEXTS), floats, atol=1e-6)
    ranker = CohereRerank(model="ranker", cohere_api_key=KEY, base_url=url, top_n=2)
    rows = ranker.rerank(documents=[Document(page_content=text) for text in DOCUMENTS], query="hello")
    assert len(rows) == 2


def test_langchain_ollama(open_url: str, floats: Floats) -> None:
    made = OllamaEmbeddings(model="demo", base_url=open_url)
    np.testing.assert_allclose(made.embed_documents(TEXTS), floats, atol=1e-6)


def test_llamaindex_tei(url: str, floats: Floats) -> None:
    made = TextEmbeddingsInference(model_name="demo", base_url=url, auth_token=KEY)
    np.testing.assert_allclose(made.get_text_embedding_batch(TEXTS), floats, atol=1e-6)


def test_llamaindex_openai_like(url: str, floats: Floats) -> None:
    made = OpenAILikeEmbedding(model_name="demo", api_base=f"{url}/v1", api_key=KEY)
    np.testing.assert_allclose(made.get_text_embedding_batch(TEXTS), floats, atol=1e-6)


@pytest.mark.parametrize("encoding", ["float", "binary", "ubinary"])
def test_llamaindex_jina(url: str, floats: Floats, encoding: str) -> None:
    kinds = {"encoding_queries": encoding, "encoding_documents": encoding}
    made = JinaEmbedding(api_key=KEY, model="jina-embeddings-v3", **kinds)
    made._api.api_url = f"{url}/v1/embeddings"  # it has no option for that
    found = np.array(made.get_text_embedding_batch(TEXTS))
    if encoding == "float":
        np.testing.assert_allclose(found, floats, atol=1e-6)
    else:
        assert np.array_equal(found.astype(int), (np.array(floats) > 0).astype(int))


def test_llamaindex_cohere(url: str, floats: Floats) -> None:
    made = CohereEmbedding(api_key=KEY, model_name="embed-english-v3.0", base_url=url, input_type="search_document")
    np.testing.assert_allclose(made.get_text_embedding_batch(TEXTS), floats, atol=1e-6)


def test_llamaindex_ollama(open_url: str, floats: Floats) -> None:
    made = OllamaEmbedding(model_name="demo", base_url=open_url)
    np.testing.assert_allclose(made.get_text_embedding_batch(TEXTS), floats, atol=1e-6)


def nodes() -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text), score=0.0) for text in DOCUMENTS]


def test_llamaindex_rerankers(url: str) -> None:
    order = []
    for made in (
        TEIRerank(base_url=url, model_name="ranker", top_n=3, auth_token=f"Bearer {KEY}"),
        JinaRerank(api_key=KEY, model="ranker", base_url=f"{url}/v1", top_n=3),
        LlamaCohereRerank(api_key=KEY, model="ranker", base_url=url, top_n=3),
    ):
        found = made.postprocess_nodes(nodes(), query_str="hello")
        order.append([one.node.get_content() for one in found])
    assert order[0] == order[1] == order[2]
    assert sorted(order[0]) == sorted(DOCUMENTS)


def test_haystack_openai(url: str, floats: Floats) -> None:
    made = OpenAITextEmbedder(model="demo", api_base_url=f"{url}/v1", api_key=Secret.from_token(KEY))
    np.testing.assert_allclose(made.run(text=TEXTS[0])["embedding"], floats[0], atol=1e-6)
