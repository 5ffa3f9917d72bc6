"""Keys: what each may do, what it has used, and what is wrong with a file of them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fakes import SPEC, FakeWorker

from inlay.api.app import App, make_app
from inlay.api.auth import Keyring
from inlay.api.keys import read_keys
from inlay.api.surroundings import check_names
from inlay.cache.urls import make_cache
from inlay.config_values import make_settings
from inlay.errors import ConfigError
from inlay.types import Priority

FILE = f"""
[[keys]]
name = "search"
key = "sk-search"
models = ["second"]

[[keys]]
name = "bulk"
key_sha256 = "{hashlib.sha256(b"sk-bulk").hexdigest()}"
tokens_per_minute = 10
priority = "low"

[[keys]]
name = "all"
key = "sk-all"
"""


class Server:
    """Two models behind keys of a file."""

    def __init__(self, folder: Path, text: str = FILE) -> None:
        file = folder / "keys.toml"
        file.write_text(text)
        self.first = FakeWorker(replace(SPEC, name="first", fingerprint="1"))
        self.second = FakeWorker(replace(SPEC, name="second", fingerprint="2"))
        workers = {"first": self.first, "second": self.second}
        keyring = Keyring(read_keys(["sk-plain"], str(file)))
        settings = make_settings({})
        check_names(settings, [self.first.spec, self.second.spec], keyring)
        self.app: App = make_app(workers, make_cache(["memory://8MiB"]), {}, keyring, settings)

    def ask(self, key: str, body: object, path: str = "/v1/embeddings", **headers: str) -> httpx.Response:
        async def story() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app.envelope)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://inlay") as client:
                content = json.dumps(body).encode()
                return await client.post(path, content=content, headers={"authorization": f"Bearer {key}", **headers})

        return asyncio.run(story())

    def numbers(self) -> str:
        return self.app.metrics.render().decode()


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def test_every_key_of_the_file_opens_the_server_and_no_other(server: Server) -> None:
    for key in ("sk-plain", "sk-search", "sk-bulk", "sk-all"):
        assert server.ask(key, {"input": "a"}).status_code == 200
    for key in ("", "sk-", "search", hashlib.sha256(b"sk-bulk").hexdigest()):
        assert server.ask(key, {"input": "a"}).status_code == 401


def test_a_key_gets_its_own_models_and_the_first_of_them_by_default(server: Server) -> None:
    assert server.ask("sk-search", {"input": "a"}).json()["model"] == "second"
    assert server.ask("sk-all", {"input": "a"}).json()["model"] == "first"
    for _ in range(2):
        reply = server.ask("sk-search", {"input": "a", "model": "first"})
        assert reply.status_code == 403
        assert reply.json()["error"]["message"] == "this key may not use model 'first'; it may use: second"
        assert reply.json()["error"]["type"] == "permission_error"
    server.ask("sk-all", {"input": "known", "model": "first"})
    reply = server.ask("sk-search", {"input": "known", "model": "first"})
    assert reply.status_code == 403, "a reply that is kept by its body is no way round"
    assert server.ask("sk-search", {"model": "first", "input": "a"}, "/api/embed").status_code == 403


def test_a_keys_tokens_are_told_and_come_to_an_end(server: Server) -> None:
    reply = server.ask("sk-bulk", {"input": "twelve chars"})  # of which the worker makes as many tokens
    assert reply.headers["x-ratelimit-limit-tokens"] == "10"
    assert reply.headers["x-ratelimit-remaining-tokens"] == "0"
    for body in ({"input": "twelve chars"}, {"input": "another"}):  # the first is known by its body
        reply = server.ask("sk-bulk", body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "quota_exceeded")
        assert 1 <= int(reply.headers["retry-after"]) <= 60
    assert server.ask("sk-all", {"input": "another"}).status_code == 200
    assert 'inlay_key_tokens_total{key="bulk"} 12.0' in server.numbers()
    assert 'inlay_key_requests_total{key="bulk"} 1.0' in server.numbers()
    assert 'inlay_key_refused_total{key="bulk"} 2.0' in server.numbers()


def test_a_known_reply_costs_a_key_what_it_cost_before(server: Server) -> None:
    for _ in range(3):
        server.ask("sk-all", {"input": "three times"})
    assert 'inlay_key_tokens_total{key="all"} 33.0' in server.numbers()
    assert server.first.computed == ["three times"]


def test_lines_of_a_reply_are_counted_too(server: Server) -> None:
    server.ask("sk-all", {"input": ["ab", "cde"]}, accept="application/x-ndjson")
    assert 'inlay_key_tokens_total{key="all"} 5.0' in server.numbers()


def test_a_body_without_a_model_is_each_keys_own(server: Server) -> None:
    for path, body in (("/v1/embeddings", {"input": "of whom"}), ("/embed", {"inputs": "of whom"})):
        for _ in range(2):
            assert server.ask("sk-search", body, path).headers["x-inlay-fingerprint"] == "2"
            assert server.ask("sk-all", body, path).headers["x-inlay-fingerprint"] == "1"


def test_a_priority_is_told_to_whom_it_was_given(server: Server) -> None:
    for key, told in (("sk-all", None), ("sk-bulk", "low"), ("sk-all", None), ("sk-bulk", "low")):
        assert server.ask(key, {"input": "a"}).headers.get("x-inlay-priority") == told


def test_tokens_are_of_a_keys_own_models_too(server: Server) -> None:
    assert server.ask("sk-search", {"model": "first", "prompt": "a"}, "/tokenize").status_code == 403
    assert server.ask("sk-search", {"model": "first", "tokens": [1]}, "/detokenize").status_code == 403


def test_lines_beyond_the_quota_end_with_the_time_to_come_back(server: Server) -> None:
    texts = [f"{number} is a text" for number in range(300)]
    reply = server.ask("sk-bulk", {"input": texts}, accept="application/x-ndjson")
    last = json.loads(reply.text.splitlines()[-1])
    assert (last["object"], last["status"], last["error"]["code"]) == ("error", 429, "quota_exceeded")
    assert last["retry_after"] > 60
    refused = re.search(r'inlay_key_refused_total\{key="bulk"\} ([\d.]+)', server.numbers())
    assert refused
    assert float(refused[1]) <= 5, "parts that are ahead, and none of them again and again"


def test_a_keys_requests_are_as_urgent_as_they_may_be_and_the_reply_says_so(server: Server) -> None:
    reply = server.ask("sk-bulk", {"input": "a", "priority": "high"})
    assert reply.headers["x-inlay-priority"] == "low"
    assert server.first.submitted[-1].priority is Priority.LOW
    assert "x-inlay-priority" not in server.ask("sk-all", {"input": "b", "priority": "high"}).headers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no keys"),
        ('[[keys]]\nname = "key-1"\nkey = "x"', "choose another"),
        ("keys = []", "has no keys"),
        ("[[keys]", "keys.toml"),
        ('[[keys]]\nname = "a"', "'a' needs key or key_sha256"),
        ('[[keys]]\nname = "a"\nkey = "x"\nkey_sha256 = "y"', "one of the two"),
        ('[[keys]]\nname = "a"\nkey = " "', "the key of 'a' is empty"),
        ('[[keys]]\nname = "a"\nkey_sha256 = "abc"', "no SHA-256"),
        ('[[keys]]\nname = "a"\nkey = "x"\n[[keys]]\nname = "a"\nkey = "y"', "'a', or its key, is there twice"),
        ('[[keys]]\nname = "a"\nkey = "x"\n[[keys]]\nname = "b"\nkey = "x"', "'b', or its key, is there twice"),
        ('[[keys]]\nname = "a"\nkey = "x"\ntokens_per_minute = 0', "tokens_per_minute"),
        ('[[keys]]\nname = "a"\nkey = "x"\ntoken_per_minute = 9', "token_per_minute"),
        ('[[keys]]\nname = "a"\nkey = "x"\npriority = "urgent"', "urgent"),
        ('[[keys]]\nname = "a"\nkey = "x"\nmodels = ["third"]', "'a' is for 'third', which is not served"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        Server(tmp_path, text)


@pytest.mark.parametrize("text", [FILE, 'name="a"', "[keys]", "tokens_per_minute = 3"])
def test_a_toml_file_by_another_name_opens_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "keys.conf").write_text(text)
    with pytest.raises(ConfigError, match=r"looks like TOML: name it KEYS\.toml"):
        read_keys([], str(tmp_path / "keys.conf"))


def test_keys_with_any_signs_stand_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\nabc==\n  sk-1=2  \n\nx]y[\n")
    assert len(read_keys([], str(tmp_path / "keys"))) == 3
