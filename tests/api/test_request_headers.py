"""What a client may say of any request in its head: until when, how urgent, and whether another model may answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from fakes import SPEC, UnwellWorker

from inlay.api.app import App, make_app
from inlay.api.auth import Keyring
from inlay.api.dialects.openai import EMBEDDINGS
from inlay.api.job_lines import _Endpoint
from inlay.api.surroundings import check_names
from inlay.cache.urls import make_cache
from inlay.config_values import make_settings
from inlay.errors import ConfigError
from inlay.requests import EmbedRequest
from inlay.types import Priority


class Server:
    """Two models, of which the second may answer for the first."""

    def __init__(self, **settings: object) -> None:
        self.first = UnwellWorker(replace(SPEC, name="first", fingerprint="1"))
        self.second = UnwellWorker(replace(SPEC, name="second", fingerprint="2"))
        given = make_settings({"fallback": ["first=second"], **settings})
        workers = {"first": self.first, "second": self.second}
        self.app: App = make_app(workers, make_cache(["memory://8MiB"]), {}, Keyring({}), given)

    def ask(self, path: str = "/v1/embeddings", body: object = None, **headers: str) -> httpx.Response:
        async def story() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app.envelope)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://inlay") as client:
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                return await client.post(path, content=json.dumps(body or {"input": "a"}), headers=named)

        return asyncio.run(story())


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.first.gate.set()


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/v1/embeddings", {"input": "a", "fallback": True}, {}),
        ("/v1/embeddings", {"input": "a"}, {"x_inlay_fallback": "true"}),
        ("/embed", {"inputs": "a"}, {"x_inlay_fallback": "true"}),
        ("/api/embed", {"model": "first", "input": "a"}, {"x_inlay_fallback": "true"}),
    ],
)
def test_another_model_answers_and_the_reply_says_so(
    server: Server, path: str, body: object, headers: dict[str, str]
) -> None:
    server.first.reason = "the device is lost"
    for _ in range(2):
        reply = server.ask(path, body, **headers)
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-inlay-fallback"] == "first; reason=worker_dead"
        assert reply.headers["x-inlay-fingerprint"] == "2"
        told = reply.json()
        assert path == "/embed" or told["model"] == "second"
    server.first.reason = None
    reply = server.ask(path, body, **headers)
    assert "x-inlay-fallback" not in reply.headers, "no reply of another model is kept by the body"
    numbers = server.app.metrics.render().decode()
    assert 'inlay_fallbacks_total{model="first",reason="worker_dead"} 2.0' in numbers


def test_lines_of_one_reply_are_of_one_model() -> None:
    server = Server(fallback_always=True)
    server.first.is_ready = False
    server.first.be_flooded(7)
    reply = server.ask(body={"input": ["a"] * 3}, accept="application/x-ndjson")
    assert json.loads(reply.text.splitlines()[-1])["model"] == "first"
    assert server.ask(body={"input": ["a", "b"]}).json()["model"] == "second"


def test_lines_of_a_job_are_of_the_model_that_they_name() -> None:
    endpoint = _Endpoint(EMBEDDINGS, {EmbedRequest: lambda request: None})
    _, request = endpoint.read(b'{"input": "a", "model": "first", "fallback": true}')
    assert request.options.fallback is False


def test_a_deadline_of_the_client_counts_where_it_is_sooner(server: Server) -> None:
    server.first.gate.clear()
    reply = server.ask(x_request_deadline_ms="50")
    assert reply.status_code == 504
    assert server.first.cancelled, "what nobody waits for goes before it runs"
    reply = Server(request_timeout=0.05).ask(x_request_deadline_ms="999999999999")
    assert reply.status_code == 200


def test_urgency_may_stand_in_the_head(server: Server) -> None:
    for path, body in (("/v1/embeddings", {"input": "a"}), ("/embed", {"inputs": "b"})):
        server.ask(path, body, x_inlay_priority="low")
        assert server.first.submitted[-1].priority is Priority.LOW


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("x_request_deadline_ms", "soon", "send whole milliseconds"),
        ("x_request_deadline_ms", "-1", "send whole milliseconds"),
        ("x_request_deadline_ms", "", "send whole milliseconds"),
        ("x_request_deadline_ms", "9" * 40, "send whole milliseconds"),
        ("x_inlay_priority", "urgent", "send high, normal or low"),
        ("x_inlay_fallback", "yes", "send true or false"),
    ],
)
def test_a_header_that_says_nothing_is_refused(server: Server, name: str, value: str, told: str) -> None:
    for _ in range(2):
        server.ask()  # whose reply is kept by the body then
    reply = server.ask(**{name: value})
    assert reply.status_code == 400
    assert told in reply.json()["error"]["message"]


def test_leave_to_fall_back_needs_a_fallback() -> None:
    with pytest.raises(ConfigError, match="add --fallback MODEL=OTHER"):
        check_names(make_settings({"fallback_always": True}), [SPEC], Keyring({}))
