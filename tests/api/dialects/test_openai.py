"""The contract of POST /v1/embeddings, over a socket, against a server with real models."""

from __future__ import annotations

import base64
import json
import re
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from servers import RunningServer

from inlay import Embedder
from inlay.serving.output_dtypes import OutputDtype, convert_rows

TINY = "tiny-qwen3"


def vectors_of(reply: httpx.Response) -> np.ndarray:
    rows = [row["embedding"] for row in reply.json()["data"]]
    if isinstance(rows[0], str):
        rows = [np.frombuffer(base64.b64decode(row), dtype="<f4") for row in rows]
    return np.array(rows, dtype=np.float32)


def error_of(reply: httpx.Response) -> dict[str, Any]:
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"]
    body = reply.json()
    assert body.keys() == {"error", "detail"}
    assert body["detail"] == body["error"]["message"]
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return body["error"]


def test_the_reply_has_openais_shape_and_inlays_headers(server: RunningServer) -> None:
    reply = server.post({"model": "demo", "input": ["shape of a reply", "b"]})
    assert reply.status_code == 200
    body = reply.json()
    assert body["object"] == "list"
    assert body["model"] == "demo"
    assert [(row["object"], row["index"]) for row in body["data"]] == [("embedding", 0), ("embedding", 1)]
    assert body["usage"] == {
        "prompt_tokens": 9,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert vectors_of(reply).shape == (2, 384)
    assert float(reply.headers["x-inlay-queue-ms"]) >= 0
    assert float(reply.headers["x-inlay-model-ms"]) > 0
    assert reply.headers["x-inlay-cache"] == "miss"


def test_the_second_time_says_hit_with_exact_usage_and_the_same_bits(server: RunningServer) -> None:
    first = server.post({"model": "demo", "input": "told twice"})
    second = server.post({"model": "demo", "input": "told twice"})
    third = server.post({"model": "demo", "input": ["told twice", "told once"]})
    assert [reply.headers["x-inlay-cache"] for reply in (first, second, third)] == ["miss", "hit", "partial"]
    assert second.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 4
    assert first.json()["data"] == second.json()["data"]
    assert first.json()["data"][0]["embedding"] == third.json()["data"][0]["embedding"]


def test_float_and_base64_carry_the_same_numbers(server: RunningServer) -> None:
    floats = vectors_of(server.post({"model": "demo", "input": "x", "encoding_format": "float"}))
    encoded = vectors_of(server.post({"model": "demo", "input": "x", "encoding_format": "base64"}))
    assert np.array_equal(floats, encoded)


def test_what_http_gives_is_what_the_library_gives(server: RunningServer) -> None:
    texts = ["over the wire", "and in process"]
    with Embedder("demo") as embedder:
        assert np.array_equal(vectors_of(server.post({"model": "demo", "input": texts})), embedder.embed(texts))


def test_dimensions_cut_first_and_normalise_then(server: RunningServer) -> None:
    whole = vectors_of(server.post({"model": TINY, "input": "word of mouth", "normalize": False}))
    cut = vectors_of(server.post({"model": TINY, "input": "word of mouth", "dimensions": 40}))
    expected = whole[:, :40] / np.linalg.norm(whole[:, :40], axis=1, keepdims=True)
    assert cut.shape == (1, 40)
    np.testing.assert_allclose(cut, expected, rtol=1e-6)


def test_prompts_can_be_asked_for_in_every_way(server: RunningServer) -> None:
    ways = [
        {"model": f"{TINY}:query"},
        {"model": TINY, "prompt_name": "query"},
        {"model": TINY, "input_type": "query"},
        {"model": TINY, "input_type": "search_query"},
        {
            "model": TINY,
            "instruction": "Given a web search query, retrieve relevant passages that answer the query",
        },
    ]
    vectors = [vectors_of(server.post({"input": "how do they look", **way})) for way in ways]
    plain = vectors_of(server.post({"input": "how do they look", "model": TINY}))
    document = vectors_of(server.post({"input": "how do they look", "model": TINY, "input_type": "document"}))
    assert all(np.array_equal(vector, vectors[0]) for vector in vectors)
    assert np.array_equal(plain, document)
    assert not np.allclose(plain, vectors[0])


def ignored_fields(server: RunningServer) -> float:
    """Requests so far that had fields which are not known."""
    found = re.search(r"^inlay_ignored_fields_total (\S+)$", server.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_null_and_unknown_fields_are_taken(server: RunningServer) -> None:
    nulls = dict.fromkeys(
        ["model", "encoding_format", "dimensions", "user", "prompt_name", "input_type", "instruction", "truncate"]
    )
    known = {"input": "x", **nulls, "normalize": None, "priority": None}
    before = ignored_fields(server)
    assert server.post(known).status_code == 200
    assert ignored_fields(server) == before
    reply = server.post({**known, "tomorrow": {"a": 1}, "later": 2})
    assert reply.status_code == 200
    assert reply.json()["model"] == "demo"
    assert ignored_fields(server) == before + 1
    wrong = server.post({**known, "tomorrow": 1, "dimensions": "many"})
    assert error_of(wrong)["param"] == "dimensions"


@pytest.mark.parametrize("truncate", [True, "end"])
def test_a_cut_input_is_told_by_its_index(server: RunningServer, truncate: object) -> None:
    reply = server.post({"model": "demo", "input": ["short", "long " * 400], "truncate": truncate})
    assert reply.status_code == 200
    assert reply.headers["x-inlay-truncated"] == "1"
    assert reply.json()["usage"]["prompt_tokens"] == 3 + 256


@pytest.mark.parametrize("priority", ["high", "normal", "low"])
def test_priorities_are_taken(server: RunningServer, priority: str) -> None:
    assert server.post({"input": f"of {priority} priority", "priority": priority}).status_code == 200


def test_a_long_list_is_taken_whole_and_in_order(server: RunningServer) -> None:
    texts = [f"text number {i % 1500}" for i in range(2048)]
    vectors = vectors_of(server.post({"model": "demo", "input": texts, "encoding_format": "base64"}))
    assert np.array_equal(vectors[:548], vectors[1500:])
    alone = vectors_of(server.post({"model": "demo", "input": texts[777]}))
    assert np.array_equal(vectors[777], alone[0])


LONG = "long " * 400


@pytest.mark.parametrize(
    ("body", "status", "param", "told"),
    [
        ({"input": ["a", "cut emoji \ud83d"]}, 400, "input[1]", "lone surrogate"),
        ({"input": ""}, 400, "input[0]", "is empty"),
        ({"input": ["a", ""]}, 400, "input[1]", "is empty"),
        ({"input": []}, 400, "input", "at least one text"),
        ({}, 400, "input", "input"),
        ({"input": None}, 400, "input", "Expected"),
        ({"input": 5}, 400, "input", "Expected"),
        ({"input": ["a", None]}, 400, "input[1]", "Expected"),
        ({"input": ["a", {"text": "b"}]}, 400, "input[1]", "Expected"),
        ({"input": ["a", 3]}, 400, "input[1]", "text"),
        ({"input": [[1], "a"]}, 400, "input[1]", "one kind"),
        ({"input": ["a"] * 2049}, 400, "input", "--max-inputs-per-request"),
        ({"input": ["a", "b", "c", LONG]}, 400, "input[3]", '402 tokens.*at most 256.*truncate to "end"'),
        ({"input": "a", "model": 3}, 400, "model", "Expected"),
        ({"input": "a", "model": "gpt-9"}, 404, "model", "demo, tiny-qwen3"),
        ({"input": "a", "encoding_format": "int8"}, 400, "encoding_format", "use float, base64"),
        ({"input": "a", "dimensions": 100}, 400, "dimensions", "Matryoshka"),
        ({"input": "a", "dimensions": 8, "model": TINY}, 400, "dimensions", "from 32 to 64"),
        ({"input": "a", "dimensions": 65, "model": TINY}, 400, "dimensions", "from 32 to 64"),
        ({"input": "a", "dimensions": "x"}, 400, "dimensions", "Expected"),
        ({"input": "a", "prompt_name": "haiku"}, 400, "prompt_name", "document, query"),
        ({"input": "a", "model": "demo:haiku"}, 400, "prompt_name", "document, query"),
        ({"input": "a", "input_type": "clustering"}, 400, "input_type", "query, document"),
        ({"input": "a", "input_type": "query", "prompt_name": "document"}, 400, "prompt_name", "one of them"),
        ({"input": "a", "instruction": "x"}, 400, "instruction", "takes no instructions"),
        ({"input": "a", "truncate": "middle"}, 400, "truncate", "use none, start, end"),
        ({"input": "a", "priority": "urgent"}, 400, "priority", "use high, normal, low"),
        ({"input": [1, 2, 3]}, 400, "input", "check_embedding_ctx_length=False"),
        ({"input": [[1, 2], [3]]}, 400, "input", "--allow-token-ids"),
    ],
)
def test_a_mistake_is_answered_with_its_place_and_the_remedy(
    server: RunningServer, body: object, status: int, param: str, told: str
) -> None:
    reply = server.post(body)
    assert reply.status_code == status
    error = error_of(reply)
    assert error["param"] == param
    assert error["code"]
    with pytest.raises(ValueError, match=told):
        raise ValueError(error["message"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"input": "\\ud800"}',
        b'{"input": "' + b"\xc3(" + b'"}',
        b"[" * 100_000,
    ],
)
def test_garbage_is_a_400_that_says_what_is_wrong(server: RunningServer, body: bytes) -> None:
    reply = server.post(body)
    assert reply.status_code == 400
    assert len(error_of(reply)["message"]) > 10
    assert server.post({"input": "still there"}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [b'{"later": 1, "input": ["ok", "\\ud83d"]}', b'{"input": ["ok", "\\ud83d"], "later": 1}'],
)
def test_half_a_pair_is_named_also_beside_a_field_that_is_not_known(server: RunningServer, body: bytes) -> None:
    before = ignored_fields(server)
    error = error_of(server.post(body))
    assert (error["param"], ignored_fields(server)) == ("input[1]", before + 1)
    assert server.post(b'{"input": "a", "later": "\\ud800"}').status_code == 200


def test_one_bad_input_among_many_is_named_and_the_next_request_is_fine(server: RunningServer) -> None:
    texts = [f"fine text {i}" for i in range(500)]
    texts[321] = LONG
    assert error_of(server.post({"input": texts}))["param"] == "input[321]"
    texts[321] = "now it is short"
    assert server.post({"input": texts}).status_code == 200


def test_a_request_id_is_echoed_or_made(server: RunningServer) -> None:
    given = server.post({"input": "a"}, headers={"x-request-id": "abc-123"})
    assert given.headers["x-request-id"] == "abc-123"
    strange = server.post({"input": "a"}, headers={"x-request-id": "a b<script>"})
    made = server.post({"input": "a"})
    assert len({strange.headers["x-request-id"], made.headers["x-request-id"], "a b<script>"}) == 3


def test_a_client_that_leaves_harms_nobody(server: RunningServer) -> None:
    parts = urlsplit(server.url)
    body = json.dumps({"input": [f"left behind {i}" for i in range(300)]}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    for sent in (head, head + body[:50], head + body):
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            connection.sendall(sent)
    assert server.post({"input": "left behind 7"}).status_code == 200


def count(server: RunningServer, line: str) -> float:
    found = [shown for shown in server.get("/metrics").text.splitlines() if shown.startswith(line + " ")]
    return float(found[0].split()[-1]) if found else 0.0


def test_a_body_that_comes_again_gets_the_same_reply_and_counts_the_same(server: RunningServer) -> None:
    body = {"input": ["a body that comes", "again and again"], "encoding_format": "base64"}
    server.post(body)
    first = server.post(body)
    repeated, inputs = "inlay_repeated_requests_total", 'inlay_inputs_total{model="demo",source="cache"}'
    before = count(server, repeated), count(server, inputs)
    for number in range(3):
        reply = server.post(body, headers={"x-request-id": f"try-{number}"})
        assert reply.content == first.content
        ids = [value for name, value in reply.headers.multi_items() if name == "x-request-id"]
        assert ids == [f"try-{number}"]
        assert reply.headers["x-inlay-cache"] == "hit"
    assert (count(server, repeated), count(server, inputs)) == (before[0] + 3, before[1] + 6)


def test_ignored_fields_are_counted_each_time(server: RunningServer) -> None:
    body = {"input": "ignored again and again", "made_up": 1}
    before = count(server, "inlay_ignored_fields_total")
    for _ in range(4):
        assert server.post(body).status_code == 200
    assert count(server, "inlay_ignored_fields_total") == before + 4


def test_cache_control_is_obeyed(server: RunningServer) -> None:
    body = {"input": "not to be kept"}
    server.post(body, headers={"cache-control": "no-store"})
    assert server.post(body).headers["x-inlay-cache"] == "miss"
    assert server.post(body).headers["x-inlay-cache"] == "hit"
    assert server.post(body, headers={"cache-control": "no-cache"}).headers["x-inlay-cache"] == "miss"


OUTPUT_DTYPES = {
    "float": "<f4",
    "float16": "<f2",
    "int8": "i1",
    "uint8": "u1",
    "binary": "i1",
    "ubinary": "u1",
}


@pytest.mark.parametrize("output_dtype", OUTPUT_DTYPES)
@pytest.mark.parametrize("dimensions", [None, 40])
def test_every_output_dtype_comes_from_the_same_vector_as_lists_and_in_base64(
    server: RunningServer, output_dtype: str, dimensions: int | None
) -> None:
    body = {"model": TINY, "input": ["one text", "another"], "dimensions": dimensions}
    vectors = vectors_of(server.post(body))
    listed = server.post({**body, "output_dtype": output_dtype})
    assert listed.headers["x-inlay-cache"] == "hit"
    rows = [row["embedding"] for row in listed.json()["data"]]
    dtype = np.dtype(OUTPUT_DTYPES[output_dtype])
    assert all(isinstance(number, int) == (dtype.kind in "iu") for row in rows for number in row)
    coded = server.post({**body, "output_dtype": output_dtype, "encoding_format": "base64"}).json()["data"]
    decoded = np.array([np.frombuffer(base64.b64decode(row["embedding"]), dtype=dtype) for row in coded])
    np.testing.assert_array_equal(decoded, np.array(rows, dtype=dtype))
    expected = convert_rows(vectors, OutputDtype(output_dtype))
    np.testing.assert_array_equal(decoded, expected)


def test_integers_need_unit_vectors_and_an_unknown_dtype_is_told_which_there_are(server: RunningServer) -> None:
    for body, told in (
        ({"output_dtype": "int8", "normalize": False}, "unit length"),
        ({"output_dtype": "int4"}, "float16, int8"),
    ):
        reply = server.post({"model": "demo", "input": "a", **body})
        assert reply.status_code == 400
        error = error_of(reply)
        assert error["param"] == "output_dtype"
        assert told in error["message"], error["message"]
    bits = server.post({"model": "demo", "input": "a", "normalize": False, "output_dtype": "binary"})
    assert len(bits.json()["data"][0]["embedding"]) == 384 // 8


def test_who_expects_another_fingerprint_gets_both_and_no_vectors(server: RunningServer) -> None:
    body = {"input": ["a fixed contract"]}
    reply = server.post(body)
    own = reply.headers["x-inlay-fingerprint"]
    assert own == server.get("/v1/models").json()["data"][0]["fingerprint"]
    assert server.post({**body, "expect_fingerprint": own}).json()["data"] == reply.json()["data"]
    server.post(body)  # now the reply to this body is known
    refused = [
        server.post({**body, "expect_fingerprint": "f" * 32}),
        server.post(body, headers={"x-inlay-expect-fingerprint": "f" * 32}),
    ]
    for other in refused:
        assert other.status_code == 409
        error = other.json()["error"]
        assert (error["code"], error["param"]) == ("fingerprint_mismatch", "expect_fingerprint")
        assert own in error["message"]
        assert "f" * 32 in error["message"]
    assert server.post(body, headers={"x-inlay-expect-fingerprint": own}).status_code == 200


def test_an_input_at_fault_costs_only_itself_where_that_is_asked(server: RunningServer) -> None:
    inputs = ["good one", "", "stone " * 600, "good two"]
    body = {"model": "demo", "input": inputs, "on_error": "skip"}
    for encoding in ("float", "base64"):
        for _ in range(2):  # from the model, then from the cache
            reply = server.post({**body, "encoding_format": encoding, "include_tokens": encoding == "float"})
            assert (reply.status_code, reply.headers["x-inlay-failed"]) == (200, "1,2")
            rows = reply.json()["data"]
            assert [row["index"] for row in rows] == [0, 1, 2, 3]
            assert [row.get("error", {}).get("code") for row in rows] == [
                None,
                "empty_input",
                "context_length_exceeded",
                None,
            ]
    alone = server.post({"model": "demo", "input": ["good one", "good two"], "encoding_format": "base64"}).json()
    assert [rows[index]["embedding"] for index in (0, 3)] == [row["embedding"] for row in alone["data"]]
    assert reply.json()["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
    assert server.post({**body, "on_error": "fail"}).status_code == 400
    assert server.post({**body, "model": "nobody"}).status_code == 404
    nothing = server.post({**body, "input": ["", ""]})
    assert (nothing.status_code, nothing.json()["usage"]["total_tokens"]) == (200, 0)
