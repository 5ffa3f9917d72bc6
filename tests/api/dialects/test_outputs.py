"""Several kinds of output over `/v1/embeddings`, of a model that has them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from checkpoints import make_bge_m3
from servers import RunningServer

from inlay import Embedder

TEXTS = ["hello world", "the way the water"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bge_m3(tmp_path_factory.mktemp("outputs") / "tiny-m3")


@pytest.fixture(scope="module")
def server(path: Path) -> Iterator[RunningServer]:
    with RunningServer(str(path), "--dtype", "float32") as running:
        yield running


def test_all_three_come_in_one_reply_and_then_from_the_cache(server: RunningServer, path: Path) -> None:
    with Embedder(str(path), dtype="float32") as embedder:
        expected = embedder.embed_outputs(TEXTS)
    for status in ("miss", "hit"):
        reply = server.post({"input": TEXTS, "outputs": ["dense", "sparse", "colbert"]})
        assert reply.headers["x-inlay-cache"] == status
        for index, row in enumerate(reply.json()["data"]):
            np.testing.assert_allclose(row["embedding"], expected.dense[index], atol=1e-6)
            assert row["sparse"]["indices"] == expected.sparse[index].indices.tolist()
            np.testing.assert_allclose(row["sparse"]["values"], expected.sparse[index].values, atol=1e-6)
            np.testing.assert_allclose(row["colbert"], expected.colbert[index], atol=1e-6)
    dense = server.post({"input": TEXTS})
    assert dense.headers["x-inlay-cache"] == "hit"
    assert dense.json()["data"][0].keys() == {"object", "index", "embedding"}


def test_embedding_types_asks_for_the_same_and_base64_is_of_all_rows(server: RunningServer) -> None:
    lists = server.post({"input": TEXTS, "embedding_types": ["colbert"]}).json()["data"]
    packed = server.post({"input": TEXTS, "embedding_types": ["colbert", "float"], "encoding_format": "base64"}).json()
    for row, other in zip(lists, packed["data"], strict=True):
        assert row["embedding"] == []
        rows = np.frombuffer(base64.b64decode(other["colbert"]), "<f4").reshape(-1, 48)
        np.testing.assert_allclose(rows, row["colbert"], atol=1e-6)
        assert len(base64.b64decode(other["embedding"])) == 4 * 48


def test_the_openai_client_asks_for_them_too(server: RunningServer) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    reply = client.embeddings.create(model="tiny-m3", input=TEXTS, extra_body={"outputs": ["dense", "sparse"]})
    assert len(reply.data[0].embedding) == 48
    assert reply.data[0].sparse["indices"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"outputs": ["tokens"]}, "gives no 'tokens' output: it gives dense, sparse, colbert"),
        ({"outputs": []}, "outputs is empty"),
        ({"outputs": ["colbert"], "output_dtype": "int8"}, "output_dtype is for dense vectors"),
        ({"embedding_types": []}, "embedding_types is empty"),
        ({"outputs": ["dense"], "embedding_types": ["float"]}, "send one of them"),
        ({"outputs": "sparse"}, "outputs"),
    ],
)
def test_what_cannot_be_given_is_refused(server: RunningServer, body: dict[str, object], message: str) -> None:
    reply = server.post({"input": TEXTS, **body})
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]


def test_models_says_what_each_gives(server: RunningServer) -> None:
    (model,) = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert model["outputs"] == ["dense", "sparse", "colbert", "token_embeddings"]


def test_metrics_count_what_was_given_by_kind(server: RunningServer) -> None:
    def counted() -> dict[str, float]:
        rows = re.findall(r'inlay_outputs_total\{kind="(\w+)",model="tiny-m3"\} (\S+)', server.get("/metrics").text)
        return {kind: float(number) for kind, number in rows}

    before = counted()
    server.post({"input": ["a", "b"], "outputs": ["sparse", "colbert"]})
    server.post({"input": ["a", "b", "c"]})
    after = counted()
    given = {kind: after[kind] - before[kind] for kind in after}
    assert given == {"dense": 3, "sparse": 2, "colbert": 2, "token_embeddings": 0}
