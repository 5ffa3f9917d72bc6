from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from servers import RunningServer


def test_health_and_readiness_are_plain(server: RunningServer) -> None:
    assert server.get("/health").json() == {"status": "ok"}
    assert server.get("/ready").json() == {"status": "ready"}


def test_models_tell_what_a_client_needs_to_know(server: RunningServer) -> None:
    body = server.get("/v1/models").json()
    demo, tiny = body["data"]
    assert body["object"] == "list"
    assert (demo["id"], demo["width"], demo["max_tokens"], demo["matryoshka"]) == ("demo", 384, 256, None)
    assert (tiny["id"], tiny["width"], tiny["matryoshka"]) == ("tiny-qwen3", 64, {"min": 32, "max": 64})
    assert tiny["prompts"]["query"].endswith("\nQuery:")
    assert tiny["takes_instructions"]
    assert len(demo["fingerprint"]) == 32
    assert server.get("/v1/models/demo").json() == demo
    missing = server.get("/v1/models/Qwen/Qwen9")
    assert missing.status_code == 404
    assert "demo, tiny-qwen3" in missing.json()["error"]["message"]


def test_metrics_count_what_happens(server: RunningServer) -> None:
    def read(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", server.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    names = [
        'inlay_requests_total{route="/v1/embeddings",status="200"}',
        'inlay_inputs_total{model="demo",source="model"}',
        'inlay_input_tokens_total{model="demo",source="cache"}',
        'inlay_engine_tokens_total{model="demo"}',
        'inlay_cache_hits_total{tier="memory"}',
    ]
    before = [read(name) for name in names]
    server.post({"input": ["hello world", "count"]})
    server.post({"input": ["hello world", "count"]})
    after = [read(name) for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 2, 7, 7, 2]
    assert 'inlay_engine_device_bytes{model="demo"} 0.0' in server.get("/metrics").text, "a processor holds none"


def test_paths_and_methods_that_are_not_there_are_json_too(server: RunningServer) -> None:
    missing, wrong = server.get("/nope"), server.get("/v1/embeddings")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert "use POST" in wrong.json()["error"]["message"]
    slash = httpx.post(f"{server.url}/v1/embeddings/", content=b"{}")
    assert (slash.status_code, slash.json()["error"]["code"]) == (404, "not_found")


def test_info_docs_and_openapi_describe_the_server(server: RunningServer) -> None:
    info = server.get("/info").json()
    assert info["limits"]["max_inputs_per_request"] == 2048
    assert [tier["tier"] for tier in info["cache"]] == ["memory"]
    api = server.get("/openapi.json").json()
    request = api["components"]["schemas"]["EmbeddingRequest"]["properties"]
    assert {"input", "model", "dimensions", "truncate", "instruction"} <= request.keys()
    assert api["paths"]["/v1/embeddings"]["post"]["responses"]["429"]
    page = server.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "POST /v1/embeddings" in page.text
    assert "http" not in page.text.replace("http-equiv", "").lower(), "the page must not need the network"


def test_keys_are_asked_for_and_compared() -> None:
    with RunningServer("demo", env={"INLAY_API_KEY": "one,two"}) as server:
        body = {"input": "a"}
        assert server.post(body).status_code == 401
        assert server.post(body, headers={"authorization": "Bearer three"}).status_code == 401
        refused = server.post(body, headers={"authorization": "Bearer onetwo"}).json()["error"]
        assert refused["code"] == "invalid_api_key"
        for sent in ("Bearer one", "bearer two", "two"):
            assert server.post(body, headers={"authorization": sent}).status_code == 200
        assert server.get("/v1/models").status_code == 401
        assert server.get("/info").status_code == 401
        assert server.get("/health").status_code == 200
        assert server.get("/metrics").status_code == 200
        assert "one,two" not in server.output()


def test_keys_can_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# team a\nalpha\n\nbeta\n")
    with RunningServer("demo", "--api-key-file", str(tmp_path / "keys")) as server:
        assert server.post({"input": "a"}, headers={"authorization": "Bearer beta"}).status_code == 200
        assert server.post({"input": "a"}).status_code == 401


def test_a_key_that_is_not_ascii_is_compared_by_its_bytes() -> None:
    with RunningServer("demo", "--api-key", " ключ ") as server:
        sent = "Bearer ключ".encode()
        reply = httpx.post(f"{server.url}/v1/embeddings", content=b'{"input": "a"}', headers={b"authorization": sent})
        assert reply.status_code == 200


def test_bounds_are_kept_and_named(checkpoint: Callable[[str], Path]) -> None:
    arguments = ["--max-body-bytes", "2KiB", "--max-inputs-per-request", "4", "--max-queue-tokens", "60"]
    with RunningServer("demo", *arguments, "--cache", "none") as server:
        big = server.post({"input": "x" * 3000})
        assert (big.status_code, big.json()["error"]["code"]) == (413, "request_too_large")
        assert "--max-body-bytes" in big.json()["error"]["message"]
        huge = server.post({"input": "x" * 30_000})
        assert huge.status_code == 413
        many = server.post({"input": ["a"] * 5})
        assert "--max-inputs-per-request" in many.json()["error"]["message"]
        whole = server.post({"input": ["many words " * 20, "many words " * 15]})
        assert (whole.status_code, whole.json()["error"]["code"]) == (413, "request_too_large")
        assert "--max-queue-tokens" in whole.json()["error"]["message"]
        assert server.post({"input": "fine"}).status_code == 200


def test_a_body_that_does_not_come_is_a_408() -> None:
    with RunningServer("demo", "--request-timeout", "0.3") as server:
        parts = urlsplit(server.url)
        with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
            connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
            assert b" 408 " in connection.recv(4096).splitlines()[0]


def test_texts_of_departed_clients_are_not_tokenised() -> None:
    with RunningServer("demo", "--cache", "none") as server:
        parts = urlsplit(server.url)
        for number in range(12):
            texts = [f"{number} {i} " + "word " * 200 for i in range(256)]
            body = json.dumps({"input": texts, "truncate": True}).encode()
            head = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
            with socket.create_connection((parts.hostname, parts.port)) as connection:
                connection.sendall(head + body)
        wait_for_metric(server, "inlay_requests_in_flight 1.0")
        assert server.post({"input": "quick"}).status_code == 200
        engine = re.search(r'inlay_engine_sequences_total\{model="demo"\} (\S+)', server.get("/metrics").text)
        assert engine is not None
        assert float(engine[1]) <= 256, "work was done for clients that had gone"
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 15


def test_sigterm_while_a_model_loads_does_not_wait_for_it(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    shutil.copytree(checkpoint("bert"), slow)
    (slow / "model.safetensors").unlink()
    os.mkfifo(slow / "pytorch_model.bin")  # reading it blocks for ever
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = ["--port", str(port), "--shutdown-delay", "0", "--shutdown-timeout", "1"]
    with RunningServer(str(slow), *arguments, wait=False, env={"INLAY_LOG_LEVEL": "info"}) as server:
        wait_until(lambda: answers(port))
        loading = httpx.get(f"http://127.0.0.1:{port}/ready")
        assert (loading.status_code, loading.json()["reason"]) == (503, "slow: loading")
        began = time.monotonic()
        server.process.terminate()
        assert server.process.wait(timeout=20) == 0, "a stop that was asked for is no failure"
        assert time.monotonic() - began < 15, "it waited for the model"
        assert "Traceback" not in server.output()


def test_overload_is_refused_with_a_time_and_everyone_is_answered() -> None:
    with RunningServer("demo", "--max-concurrent-requests", "4", "--cache", "none") as server:
        replies: list[httpx.Response] = []

        def ask(number: int) -> None:
            replies.append(server.post({"input": [f"caller {number} text {i}" for i in range(64)]}))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        statuses = [reply.status_code for reply in replies]
        assert len(statuses) == 24
        assert set(statuses) == {200, 429}
        refused = next(reply for reply in replies if reply.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert int(refused.headers["retry-after-ms"]) >= 1
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert server.get("/health").status_code == 200


def test_a_request_that_takes_too_long_is_a_504_and_the_server_goes_on() -> None:
    with RunningServer("demo", "--request-timeout", "0.05", "--cache", "none") as server:
        reply = server.post({"input": [f"slow {i} " * 60 for i in range(400)]})
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert server.get("/health").status_code == 200


def test_token_ids_are_taken_when_allowed_and_checked_for_range() -> None:
    with RunningServer("demo", "--allow-token-ids") as server:
        text = server.post({"input": "hello world"}).json()
        ids = server.post({"input": [101, 7592, 2088, 102]}).json()
        both = server.post({"input": [[101, 7592, 2088, 102], [101, 102]]}).json()
        assert ids["data"][0]["embedding"] == text["data"][0]["embedding"] == both["data"][0]["embedding"]
        assert ids["usage"]["prompt_tokens"] == 4
        wrong = server.post({"input": [[101], [101, 30522]]}).json()["error"]
        assert wrong["param"] == "input[1]"
        assert "0 to 30521" in wrong["message"]
        assert server.post({"input": [[101], []]}).json()["error"]["param"] == "input[1]"
        for ids in ([-1], [1 << 32], [(1 << 63) - 1], [1 << 70]):
            bad = server.post({"input": [[101], ids]})
            assert (bad.status_code, bad.json()["error"]["param"]) == (400, "input[1]")
        prompted = server.post({"input": [101], "prompt_name": "query", "model": "demo"})
        assert prompted.status_code == 200, "the demo model has no prompt for queries"


def test_at_sigterm_readiness_goes_first_and_work_in_flight_is_answered() -> None:
    with RunningServer("demo", "--shutdown-delay", "4", "--cache", "none") as server:
        replies: list[httpx.Response] = []
        texts = [f"work in flight {i} " * 50 for i in range(100)]
        asking = threading.Thread(target=lambda: replies.append(server.post({"input": texts})))
        asking.start()
        wait_for_metric(server, "inlay_requests_in_flight 2.0")
        server.process.terminate()
        wait_until(lambda: server.get("/ready").status_code == 503)
        assert server.get("/ready").json()["reason"] == "shutting down"
        assert server.post({"input": "still served"}).status_code == 200
        asking.join()
        assert replies[0].status_code == 200
        assert len(replies[0].json()["data"]) == 100
        assert server.process.wait(timeout=30) == 0


def test_what_takes_longer_than_the_bound_does_not_hold_the_exit() -> None:
    arguments = ["--shutdown-delay", "0", "--shutdown-timeout", "1", "--cache", "none", "--max-batch-tokens", "512"]
    with RunningServer("demo", *arguments) as server:
        texts = [f"far too much {i} " * 50 for i in range(2048)]
        replies: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: replies.append(server.post({"input": texts})))
        asking.start()
        wait_for_metric(server, "inlay_requests_in_flight 2.0")
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 20
        asking.join()
        assert (replies[0].status_code, replies[0].json()["error"]["code"]) == (503, "shutting_down")


def test_a_model_that_cannot_be_loaded_ends_the_server_with_its_reason(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in checkpoint("bert").rglob("*"):
        if file.is_file() and file.name != "model.safetensors":
            (broken / file.relative_to(checkpoint("bert"))).parent.mkdir(exist_ok=True)
            (broken / file.relative_to(checkpoint("bert"))).write_bytes(file.read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "inlay", "serve", str(broken), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "has no weights" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_said_before_anything_is_loaded(server: RunningServer) -> None:
    port = str(urlsplit(server.url).port)
    done = subprocess.run(
        [sys.executable, "-m", "inlay", "serve", "demo", "--port", port],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "--port" in done.stderr


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_logs_never_have_the_text_of_an_input(log_format: str) -> None:
    """At the most that is logged, of requests that are answered, refused and fail inside."""
    secret = "xylophone-secret"
    with RunningServer("demo", "--log-level", "debug", "--log-format", log_format) as server:
        ids = [server.post(body).headers["x-request-id"] for body in (
            {"input": secret},
            {"input": [secret, 5]},
            {"input": secret * 500},
            {"input": secret, "model": secret},
            {"input": secret, secret: secret},
            b'{"input": "' + secret.encode() + b'\\ud800"}',
            secret.encode(),
        )]  # fmt: skip
        wait_until(lambda: all(request_id in server.output() for request_id in ids))  # each has its line
        assert secret not in server.output()


def test_a_slow_sender_does_not_hold_the_others(server: RunningServer) -> None:
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
        assert server.post({"input": "meanwhile"}).status_code == 200


def wait_for_metric(server: RunningServer, line: str) -> None:
    wait_until(lambda: line in server.get("/metrics").text)


def answers(port: int) -> bool:
    """Does a server listen there?"""
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def test_a_key_that_ends_in_any_byte_is_taken() -> None:
    key = "clé-à"  # its last byte in UTF-8 is A0, a blank of Latin-1
    with RunningServer("demo", "--api-key", key) as server:
        sent = b"Bearer " + key.encode()
        reply = httpx.post(f"{server.url}/v1/embeddings", content=b'{"input": "a"}', headers={b"authorization": sent})
        assert reply.status_code == 200


def test_of_two_models_the_broken_one_is_told_though_the_other_still_loads(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    for name in ("broken", "slow"):
        shutil.copytree(checkpoint("bert"), tmp_path / name)
        (tmp_path / name / "model.safetensors").unlink()
    os.mkfifo(tmp_path / "slow" / "pytorch_model.bin")  # reading it blocks for ever
    for order in (["broken", "slow"], ["slow", "broken"]):
        done = subprocess.run(
            [sys.executable, "-m", "inlay", "serve", *(str(tmp_path / name) for name in order), "--port", "0"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert "has no weights" in done.stderr.splitlines()[-1]


def test_the_description_of_the_api_has_every_refusal(server: RunningServer) -> None:
    paths = server.get("/openapi.json").json()["paths"]
    assert "404" in paths["/v1/models/{name}"]["get"]["responses"]
    assert {"408", "429", "431"} <= paths["/v1/embeddings"]["post"]["responses"].keys()
