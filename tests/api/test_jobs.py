"""Jobs by OpenAI's own client, over a socket, on a server with real models."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from rerankers import make_reranker
from servers import RunningServer

KEYS = ("alpha", "beta")
EMBEDDINGS = "/v1/embeddings"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("jobs")
    ranker = make_reranker(folder / "ranker", "bert")
    keys = [part for key in KEYS for part in ("--api-key", key)]
    with RunningServer(
        "demo", str(ranker), "--jobs", str(folder / "jobs"), "--max-jobs-bytes", "8MiB", *keys
    ) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    with client_of(server) as found:
        yield found


def client_of(server: RunningServer, key: str = KEYS[0]) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def line_of(custom_id: str, body: dict, url: str = EMBEDDINGS) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def send(client: openai.OpenAI, rows: list[str], **arguments: object) -> openai.types.FileObject:
    return client.files.create(file=("in.jsonl", "\n".join(rows).encode()), purpose="batch", **arguments)


def run(client: openai.OpenAI, rows: list[str], endpoint: str = EMBEDDINGS) -> openai.types.Batch:
    batch = client.batches.create(
        input_file_id=send(client, rows).id, endpoint=endpoint, completion_window="24h", metadata={"for": "a test"}
    )
    return wait(client, batch.id, lambda found: found.status in ("completed", "failed", "expired", "cancelled"))


def wait(client: openai.OpenAI, batch_id: str, until: Callable[[openai.types.Batch], bool]) -> openai.types.Batch:
    for _ in range(6000):  # two minutes at the least: the machine may be busy
        batch = client.batches.retrieve(batch_id)
        if until(batch):
            return batch
        time.sleep(0.02)
    raise AssertionError(f"the batch did not come so far: {batch}")


def rows_of(client: openai.OpenAI, file_id: str | None) -> dict[str, dict]:
    assert file_id is not None
    rows = [json.loads(row) for row in client.files.content(file_id).text.splitlines()]
    found = {row["custom_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def test_lines_get_the_vectors_that_requests_would(client: openai.OpenAI) -> None:
    texts = [f"text number {i}" for i in range(30)]
    rows = [line_of(f"id{i}", {"model": "demo", "input": text}) for i, text in enumerate(texts)]
    rows.append(line_of("two", {"model": "demo", "input": texts[:2], "encoding_format": "base64"}))
    rows.append(line_of("bad", {"model": "demo", "input": ""}))
    rows.append(line_of("nobody", {"model": "gpt", "input": "x"}))
    batch = run(client, rows)
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (33, 31, 2)
    assert batch.metadata == {"for": "a test"}
    assert batch.usage is not None
    assert batch.usage.total_tokens > 90
    assert batch.completed_at
    found = rows_of(client, batch.output_file_id)
    assert list(found) == [*(f"id{i}" for i in range(30)), "two"]
    direct = client.embeddings.create(model="demo", input=texts, encoding_format="float")
    for i, row in enumerate(direct.data):
        assert found[f"id{i}"]["response"]["body"]["data"][0]["embedding"] == row.embedding
    decoded = [
        np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in found["two"]["response"]["body"]["data"]
    ]
    np.testing.assert_array_equal(decoded, np.array([row.embedding for row in direct.data[:2]], dtype=np.float32))
    failed = rows_of(client, batch.error_file_id)
    assert failed["bad"]["response"]["status_code"] == 400
    assert failed["bad"]["response"]["body"]["error"]["code"] == "empty_input"
    assert failed["nobody"]["response"]["status_code"] == 404


def test_lines_of_a_reranker_get_the_scores_that_requests_would(client: openai.OpenAI, server: RunningServer) -> None:
    body = {"query": "which one?", "documents": ["this one", "or this"], "return_documents": True}
    batch = run(client, [line_of("a", body, "/v1/rerank"), line_of("b", {"query": "x"}, "/v1/rerank")], "/v1/rerank")
    got = rows_of(client, batch.output_file_id)["a"]["response"]["body"]
    direct = httpx.post(f"{server.url}/v1/rerank", json=body, headers={"authorization": "Bearer alpha"}).json()
    assert got["results"] == direct["results"]
    error = rows_of(client, batch.error_file_id)["b"]["response"]["body"]["error"]
    assert "documents" in error["message"]


def test_a_line_tells_what_it_has_cut(client: openai.OpenAI) -> None:
    batch = run(
        client, [line_of("long", {"input": "word " * 600, "truncate": "end"}), line_of("short", {"input": "x"})]
    )
    found = rows_of(client, batch.output_file_id)
    headers = {name: found[name]["response"]["headers"] for name in found}
    fingerprint = headers["short"]["x-inlay-fingerprint"]  # a model may be replaced while a batch runs
    assert headers == {
        "long": {"x-inlay-truncated": "0", "x-inlay-fingerprint": fingerprint},
        "short": {"x-inlay-fingerprint": fingerprint},
    }


def test_a_file_with_a_line_at_fault_is_not_run_and_the_line_is_named(client: openai.OpenAI) -> None:
    batch = run(client, [line_of("a", {"input": "x"}), "{"])
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [one.line for one in batch.errors.data] == [2]
    assert batch.output_file_id is None


def test_each_key_sees_its_own(server: RunningServer, client: openai.OpenAI) -> None:
    batch = run(client, [line_of("a", {"input": "x"})])
    with client_of(server, KEYS[1]) as other:
        for ask in (
            lambda: other.files.retrieve(batch.input_file_id),
            lambda: other.files.content(batch.output_file_id or ""),
            lambda: other.files.delete(batch.input_file_id),
            lambda: other.batches.retrieve(batch.id),
            lambda: other.batches.cancel(batch.id),
            lambda: other.batches.create(
                input_file_id=batch.input_file_id, endpoint=EMBEDDINGS, completion_window="24h"
            ),
        ):
            with pytest.raises(openai.NotFoundError):
                ask()
        assert list(other.files.list()) == list(other.batches.list()) == []
    with pytest.raises(openai.AuthenticationError), client_of(server, "gamma") as unknown:
        unknown.files.list()


def test_lists_come_page_by_page(client: openai.OpenAI) -> None:
    ids = [send(client, [line_of("a", {"input": "x"})]).id for _ in range(3)]
    assert [file.id for file in client.files.list(limit=2)][:3] == ids[::-1]
    inputs = [file.id for file in client.files.list(purpose="batch", order="asc", limit=1)]
    assert inputs[-3:] == ids
    batches = [run(client, [line_of("a", {"input": "x"})]).id for _ in range(3)]
    assert [batch.id for batch in client.batches.list(limit=1)][:3] == batches[::-1]
    with pytest.raises(openai.BadRequestError, match="limit"):
        client.files.list(limit=0)


def test_a_file_is_given_back_whole_until_it_is_deleted(client: openai.OpenAI, server: RunningServer) -> None:
    data = b"".join(b"%d\r\n" % i for i in range(200_000))  # of several pieces, with what looks like a form's lines
    file = client.files.create(
        file=("my.jsonl", data), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (file.bytes, file.filename, file.purpose) == (len(data), "my.jsonl", "batch")
    assert file.expires_at == file.created_at + 3600
    assert client.files.content(file.id).content == data
    head = httpx.head(f"{server.url}/v1/files/{file.id}/content", headers={"authorization": "Bearer alpha"})
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(data)), b"")
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError, match="no file"):
        client.files.content(file.id)


def test_a_batch_is_cancelled_and_its_input_is_kept_until_then(client: openai.OpenAI) -> None:
    rows = [line_of(f"id{i}", {"input": f"text {i} " * 60}) for i in range(3000)]
    batch = client.batches.create(input_file_id=send(client, rows).id, endpoint=EMBEDDINGS, completion_window="24h")
    with pytest.raises(openai.ConflictError, match="still reads this file"):
        client.files.delete(batch.input_file_id)
    assert client.batches.cancel(batch.id).status == "cancelling"
    done = wait(client, batch.id, lambda found: found.status == "cancelled")
    assert done.request_counts is not None
    assert done.request_counts.failed > 0
    assert done.request_counts.completed + done.request_counts.failed == 3000
    failed = rows_of(client, done.error_file_id)
    assert failed["id2999"]["error"]["code"] == "batch_cancelled"
    assert client.files.delete(batch.input_file_id).deleted
    with pytest.raises(openai.ConflictError, match="cannot be cancelled"):
        client.batches.cancel(batch.id)


def test_a_batch_expires_at_the_end_of_its_window(client: openai.OpenAI) -> None:
    rows = [line_of(f"id{i}", {"input": f"other text {i} " * 60}) for i in range(3000)]
    batch = client.batches.create(input_file_id=send(client, rows).id, endpoint=EMBEDDINGS, completion_window="1s")
    done = wait(client, batch.id, lambda found: found.status == "expired")
    assert rows_of(client, done.error_file_id)["id2999"]["error"]["code"] == "batch_expired"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint": "/v1/chat/completions"}, "use /v1/embeddings, /v1/rerank"),
        ({"completion_window": "soon"}, "is not a time"),
        ({"completion_window": "90d"}, "from 1s to 30d"),
        ({"completion_window": "24"}, "has no unit"),
        ({"metadata": {"a": "x" * 600}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, "output_expires_after.seconds"),
    ],
)
def test_a_batch_that_cannot_be_is_refused_with_the_field(
    client: openai.OpenAI, change: dict[str, object], message: str
) -> None:
    file = send(client, [line_of("a", {"input": "x"})])
    asked = {"input_file_id": file.id, "endpoint": EMBEDDINGS, "completion_window": "24h", **change}
    with pytest.raises(openai.BadRequestError, match=message):
        client.batches.create(**asked)


@pytest.mark.parametrize("field", ['"input_file_id": "\\ud800"', '"input_file_id": "x", "metadata": {"a": "\\ud800"}'])
def test_half_a_character_is_refused(server: RunningServer, field: str) -> None:
    body = f'{{{field}, "endpoint": "/v1/embeddings"}}'
    reply = httpx.post(f"{server.url}/v1/batches", content=body, headers={"authorization": "Bearer alpha"})
    assert (reply.status_code, "Unicode" in reply.text) == (400, True)


@pytest.mark.parametrize("limit", ["0", "-1", "x", "10001", "1" + "0" * 5000])
def test_a_page_is_bounded(server: RunningServer, limit: str) -> None:
    reply = server.get("/v1/files", params={"limit": limit}, headers={"authorization": "Bearer alpha"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "limit")


@pytest.mark.parametrize(
    ("path", "status", "param"),
    [("/v1/files?after=nope", 404, None), ("/v1/batches?after=nope", 404, None), ("/v1/files?order=x", 400, "order")],
)
def test_a_page_that_begins_nowhere_is_refused(
    server: RunningServer, path: str, status: int, param: str | None
) -> None:
    reply = server.get(path, headers={"authorization": "Bearer alpha"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param)


def test_a_directory_that_is_gone_is_told_and_waited_for(tmp_path: Path) -> None:
    folder, away = tmp_path / "jobs", tmp_path / "away"
    with RunningServer("demo", "--jobs", str(folder)) as server, client_of(server) as client:
        file = send(client, [line_of("a", {"input": "x"})])
        (folder / "files").rename(away)
        for ask in (lambda: client.files.content(file.id), lambda: send(client, [line_of("b", {"input": "x"})])):
            with pytest.raises(openai.InternalServerError, match="look at the disk of --jobs") as caught:
                ask()
            assert (caught.value.status_code, str(tmp_path) in caught.value.message) == (503, False)
        away.rename(folder / "files")
        assert client.files.content(file.id).text
        assert (folder.stat().st_mode & 0o777) == 0o700


def test_what_a_batch_gave_is_no_input(client: openai.OpenAI) -> None:
    batch = run(client, [line_of("a", {"input": "x"})])
    with pytest.raises(openai.BadRequestError, match="what a batch gave"):
        client.batches.create(input_file_id=batch.output_file_id or "", endpoint=EMBEDDINGS, completion_window="24h")


FORM = b'--B\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
PURPOSE = FORM % (b"purpose", b"", b"batch")
FILE = FORM % (b"file", b'; filename="x"', b"{}")


@pytest.mark.parametrize(
    ("kind", "body", "status", "message"),
    [
        ("application/json", b"{}", 400, "multipart/form-data"),
        ("multipart/form-data", b"", 400, "boundary"),
        ("multipart/form-data; boundary=B", b"", 400, "multipart/form-data|field file"),
        ("multipart/form-data; boundary=B", b"garbage", 400, "no valid multipart"),
        ("multipart/form-data; boundary=B", PURPOSE + b"--B--\r\n", 400, "field file"),
        ("multipart/form-data; boundary=B", PURPOSE + FILE[:-4], 400, "field file|no valid"),
        (
            "multipart/form-data; boundary=B",
            FILE + b"--B--\r\n",
            400,
            "purpose is missing: send the field purpose=batch",
        ),
        ("multipart/form-data; boundary=B", PURPOSE + FILE + FILE + b"--B--\r\n", 400, "two files"),
        (
            "multipart/form-data; boundary=B",
            FORM % (b"expires_after", b"", b"3600") + PURPOSE + FILE + b"--B--",
            400,
            "two fields",
        ),
        (
            "multipart/form-data; boundary=B",
            FORM % (b"expires_after[anchor]", b"", b"x") + PURPOSE + FILE + b"--B--",
            400,
            "two fields",
        ),
        ("multipart/form-data; boundary=B", FORM % (b"purpose", b"", b"x" * 5000) + b"--B--", 413, "over 4096 bytes"),
        ("multipart/form-data; boundary=B", b"".join(FORM % (b"%d" % i, b"", b"") for i in range(20)), 400, "over 16"),
    ],
)
def test_a_form_at_fault_is_refused_and_leaves_nothing(
    server: RunningServer, kind: str, body: bytes, status: int, message: str
) -> None:
    headers = {"authorization": "Bearer beta", "content-type": kind}
    reply = httpx.post(f"{server.url}/v1/files", content=body, headers=headers)
    assert reply.status_code == status
    assert re.search(message, reply.json()["error"]["message"])
    assert server.get("/v1/files", headers=headers).json()["data"] == []


def test_files_are_bounded_together(client: openai.OpenAI, server: RunningServer) -> None:
    with pytest.raises(openai.APIStatusError, match="--max-jobs-bytes") as refused:
        client.files.create(file=("big", b"x" * (9 << 20)), purpose="batch")
    assert refused.value.status_code == 413

    def chunks() -> Iterator[bytes]:  # without a length, so that it shows only on the way
        yield b'--B\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        for _ in range(9):
            yield b"x" * (1 << 20)
        yield b"\r\n--B--\r\n"

    headers = {"authorization": "Bearer beta", "content-type": "multipart/form-data; boundary=B"}
    reply = httpx.post(f"{server.url}/v1/files", content=chunks(), headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "storage_full")
    assert server.get("/v1/files", headers=headers).json()["data"] == []


def test_the_metrics_tell_of_jobs(client: openai.OpenAI, server: RunningServer) -> None:
    run(client, [line_of("a", {"input": "x"}), line_of("b", {"input": ""})])
    text = server.get("/metrics").text
    for name in (
        "inlay_jobs_unfinished_batches 0",
        "inlay_jobs_completed_lines_total",
        "inlay_jobs_failed_lines_total",
    ):
        assert name in text


def test_after_a_kill_each_line_is_answered_once_and_none_that_counted_is_computed_again(tmp_path: Path) -> None:
    arguments = ("demo", "--jobs", str(tmp_path), "--cache", "none")
    rows = [line_of(f"id{i}", {"input": f"text {i}", "dimensions": 384}) for i in range(6000)]
    with RunningServer(*arguments) as first, client_of(first) as client:
        batch = client.batches.create(input_file_id=send(client, rows).id, endpoint=EMBEDDINGS, completion_window="24h")
        wait(client, batch.id, lambda found: (found.request_counts.completed if found.request_counts else 0) > 0)
        first.process.kill()
        first.process.wait()
    with RunningServer(*arguments) as second, client_of(second) as client:
        before = re.search(r'"answered": (\d+)', second.output())
        assert before is not None
        done = wait(client, batch.id, lambda found: found.status == "completed")
        assert rows_of(client, done.output_file_id).keys() == {f"id{i}" for i in range(6000)}
        computed = re.search(r'inlay_inputs_total\{model="demo",source="model"\} (\d+)', second.get("/metrics").text)
        assert computed is not None
        assert int(computed[1]) + int(before[1]) == 6000
        assert int(before[1]) > 0
        with RunningServer(*arguments, wait=False) as third:
            assert third.process.wait(timeout=60) == 2
            assert "another server uses it" in third.output()


def test_a_server_without_jobs_says_how_it_would_have_them(tmp_path: Path) -> None:
    with RunningServer("demo") as plain:
        for path in ("/v1/files", "/v1/batches"):
            reply = plain.get(path)
            assert reply.status_code == 404
            assert "--jobs DIR" in reply.json()["error"]["message"]
