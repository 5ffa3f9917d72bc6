"""What holds for every dialect that is listed, whatever it says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from asking_dialects import asker
from fakes import FakeWorker
from test_rooms import imports_of, module_of

import inlay.api.dialects
from inlay.api.app import make_app
from inlay.api.auth import Keyring
from inlay.api.dialects import jina, registry, tei, voyage
from inlay.api.dialects.dialect import Dialect
from inlay.api.envelope import Envelope
from inlay.api.keys import read_keys
from inlay.cache.tiers import Cache
from inlay.config_values import make_settings
from inlay.errors import ConfigError, Overloaded, TooLarge
from inlay.serving.admission import Admission
from inlay.types import Worker

FOLDER = Path(inlay.api.dialects.__file__).parent
COMMON = {"api.dialects.dialect", "api.dialects.registry", "api.dialects.shared"}


def app_of(*keys: str, **settings: object) -> Envelope:
    return make_app(
        {"fake": FakeWorker()}, Cache([]), {}, Keyring(read_keys([*keys], None)), make_settings(settings)
    ).envelope


def ask(app: Envelope, method: str, path: str, body: bytes = b"", **headers: str) -> httpx.Response:
    async def story() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://inlay") as client:
            return await client.request(method, path, content=body, headers=headers)

    return asyncio.run(story())


@pytest.fixture(params=registry.DIALECTS, ids=lambda dialect: dialect.summary)
def dialect(request: pytest.FixtureRequest) -> Dialect[Any, Any, Any]:
    return request.param


@pytest.fixture(
    params=[(dialect, path) for dialect in registry.DIALECTS for path in dialect.paths],
    ids=lambda place: f"{place[1]} {place[0].request.__name__}",
)
def place(request: pytest.FixtureRequest) -> tuple[Dialect[Any, Any, Any], str]:
    return request.param


# Of dialects that share their paths: a body that is theirs by one field, and holds nothing else.
CLAIMED: dict[int, dict[str, object]] = {
    id(voyage.EMBEDDINGS): {"truncation": None},
    id(voyage.RERANK): {"top_k": None},
    id(jina.EMBEDDINGS): {"late_chunking": None},
    id(tei.RERANK): {"texts": None},
    id(tei.SIMILARITY): {"inputs": {}},
    id(tei.TOKENIZE): {"inputs": 3},
}
BODIES: tuple[dict[str, object], ...] = (
    {"input": "a"},
    {"texts": ["a"]},
    {"query": "a", "documents": ["a"]},
    {"query": "a", "texts": ["a"]},
    {"inputs": "a"},
    {"inputs": ["a", "b"]},
    {"inputs": {"source_sentence": "a", "sentences": ["b"]}},
    {"ids": [1]},
    {"model": "fake", "input": "a"},
    {"model": "fake", "prompt": "a"},
    {"text_1": "a", "text_2": "b"},
    {"tokens": [1]},
    {"text": "a"},
)


def own_body(dialect: Dialect[Any, Any, Any], **fields: object) -> bytes:
    return msgspec.json.encode(CLAIMED.get(id(dialect), {}) | fields)


def refusals(dialect: Dialect[Any, Any, Any], path: str) -> Iterator[httpx.Response]:
    """Errors that any route can meet, after those that must have the status of a wrong body."""
    app = app_of(max_body_bytes=100)
    yield ask(app, "POST", path, own_body(dialect))
    yield ask(app, "POST", path, own_body(dialect, query=4))
    yield ask(app_of("secret"), "POST", path, own_body(dialect))
    if dialect is registry.by_path(registry.NAMES)[path][0]:
        yield ask(app, "POST", path, b"{")
        yield ask(app, "POST", path, b"[]")
        yield ask(app, "POST", path, b" " * 200)
        yield ask(app, "PUT", path)


def test_every_error_has_the_shape_that_the_dialect_declares(place: tuple[Dialect[Any, Any, Any], str]) -> None:
    replies = list(refusals(*place))
    statuses = [reply.status_code for reply in replies]
    assert set(statuses[:2]) <= {400, 422}, [reply.text for reply in replies]
    assert statuses[2] == 401
    if len(statuses) > 3:
        assert set(statuses[3:5]) <= {400, 422}
        assert statuses[5:] == [413, 405]
    for reply in replies:
        msgspec.json.decode(reply.content, type=place[0].error)
        assert reply.headers["x-request-id"]


def test_a_body_on_a_shared_path_is_whoses_fields_it_has() -> None:
    """Fields alone tell it, also null ones; a text that looks like a field does not."""
    app = app_of()
    for body, kind in (
        ({"input": "a"}, "openai"),
        ({"input": '"truncation": true'}, "openai"),
        ({"input": "truncation", "dimensions": None}, "openai"),
        ({"input": "a", "truncation": None}, "voyage"),
        ({"input": "a", "embedding_type": "float"}, "jina"),
    ):
        usage = ask(app, "POST", "/v1/embeddings", msgspec.json.encode(body)).json()["usage"]
        keys = {"openai": 3, "voyage": 1, "jina": 2}
        assert len(usage) == keys[kind], body


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", b'{"input": "a", "truncation": true, "x": "\\ud800"}'),
        ("/v1/embeddings", b'{"input": "\\ud800", "truncation": true}'),
        ("/v1/embeddings", b'{"\\ud800": 1, "input": "a", "truncation": true}'),
    ],
)
def test_half_a_surrogate_pair_changes_nobodys_dialect(path: str, body: bytes) -> None:
    reply = ask(app_of(), "POST", path, body)
    assert reply.status_code in (200, 400)
    assert "error" not in reply.json()
    assert len(reply.json().get("usage", {"total_tokens": 1})) == 1


@pytest.mark.parametrize(
    ("path", "body", "remedy"),
    [
        ("/embed", {"inputs": "long", "truncate": False}, {"truncate": True}),
        ("/api/embed", {"model": "demo", "input": "long", "truncate": False}, {"truncate": True}),
        ("/v2/embed", {"model": "demo", "texts": ["long"], "truncate": "NONE"}, {"truncate": "END"}),
        ("/v1/embeddings", {"input": "long", "task": "separation"}, {"truncate": True}),
        ("/v1/embeddings", {"input": "long", "truncation": False}, {"truncation": True}),
        ("/pooling", {"input": "long"}, {"truncate_prompt_tokens": -1}),
        ("/score", {"model": "ranker", "text_1": "a", "text_2": "long"}, {"truncate_prompt_tokens": -1}),
        ("/rerank", {"query": "a", "texts": ["long"], "truncate": False}, {"truncate": True}),
        (
            "/v1/rerank",
            {"model": "ranker", "query": "a", "documents": ["long"], "top_k": 1, "truncation": False},
            {"truncation": True},
        ),
    ],
)
def test_the_remedy_for_too_long_texts_is_the_dialects_own(
    dialect_workers: dict[str, Worker], path: str, body: dict[str, object], remedy: dict[str, object]
) -> None:
    send = asker(dialect_workers)
    long = "stone " * 600
    text = msgspec.json.encode(body).replace(b'"long"', b'"%b"' % long.encode())
    refused = send(path, msgspec.json.decode(text))
    assert refused.status_code in (400, 422)
    ((name, value),) = remedy.items()
    assert f"{name} to {'true' if value is True else value}" in refused.text
    assert send(path, {**msgspec.json.decode(text), **remedy}).status_code == 200


def test_dialects_that_are_not_chosen_are_not_spoken() -> None:
    app = app_of(dialects=["openai", "voyage"])
    assert ask(app, "POST", "/v2/embed", b'{"texts": ["a"]}').status_code == 404
    assert (
        ask(app, "POST", "/v1/embeddings", b'{"input": "a", "task": "separation"}').json()["usage"]["prompt_tokens"]
        == 1
    )
    assert "detail" in ask(app, "POST", "/v1/embeddings", b'{"truncation": true}').json()
    with pytest.raises(ConfigError, match="there is no such dialect; use openai, tei"):
        app_of(dialects=["opena"])


def test_another_method_is_told_which_there_are(dialect: Dialect[Any, Any, Any]) -> None:
    assert ask(app_of(), "PUT", dialect.paths[0]).headers["allow"] in ("POST", "POST, GET, HEAD", "GET, POST, HEAD")


def test_a_refusal_says_when_to_come_back(dialect: Dialect[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Admission) -> None:
        raise Overloaded("full", retry_after=2.0)

    monkeypatch.setattr(Admission, "__enter__", full)
    bodies = [own_body(dialect, **fields) for fields in BODIES]
    replies = [ask(app_of(), "POST", dialect.paths[0], body) for body in bodies]
    refused = [reply for reply in replies if reply.status_code == 429 and is_error_of(dialect, reply)]
    assert refused
    assert all(int(reply.headers["retry-after"]) >= 2 for reply in refused)


def is_error_of(dialect: Dialect[Any, Any, Any], reply: httpx.Response) -> bool:
    try:
        msgspec.json.decode(reply.content, type=dialect.error)
    except msgspec.ValidationError:
        return False  # it went to another dialect of the path
    return True


def test_the_description_has_its_structs(place: tuple[Dialect[Any, Any, Any], str]) -> None:
    dialect, path = place
    post = ask(app_of(), "GET", "/openapi.json").json()["paths"][path]["post"]
    shown = (
        (post["requestBody"]["content"]["application/json"]["schema"], dialect.request),
        (post["responses"]["429"]["content"]["application/json"]["schema"], dialect.error),
    )
    for schema, struct in shown:
        names = [one["$ref"].rsplit("/", 1)[-1] for one in schema.get("anyOf", [schema])]
        assert struct.__name__ in names
    assert post["responses"]["200"]["content"]["application/json"]["schema"]


def test_an_alias_is_another_name_of_a_model() -> None:
    app = app_of(alias=["text-embedding-3-small=fake"])
    for name in ("text-embedding-3-small", "text-embedding-3-small:query", "fake"):
        assert ask(app, "POST", "/v1/embeddings", msgspec.json.encode({"input": "a", "model": name})).status_code == 200
    assert ask(app, "GET", "/v1/models/text-embedding-3-small").json()["id"] == "fake"
    assert ask(app, "GET", "/v1/models").json()["data"][0]["aliases"] == ["text-embedding-3-small"]
    for wrong, why in (("a", "write NAME=MODEL"), ("a=b", "'b' is not served"), ("fake=fake", "is a name already")):
        with pytest.raises(ConfigError, match=why):
            app_of(alias=[wrong])


def test_errors_name_fields_as_the_dialect_does() -> None:
    error = TooLarge("input[3] is too long", param="input[3]", retry_after=1.0)
    renamed = error.renamed({"input": "texts"})
    assert (type(renamed), renamed.message, renamed.param) == (TooLarge, "texts[3] is too long", "texts[3]")
    assert error.renamed({"dimensions": "size"}) is error


def test_dialects_do_not_know_each_other() -> None:
    """Only `registry` knows them all; a dialect may have structs in a file NAME_schema beside it."""
    for file in FOLDER.glob("*.py"):
        own = file.stem.removesuffix("_schema")
        if own in ("dialect", "registry", "shared", "__init__"):
            continue
        for module in imports_of(module_of(file), file.read_text()):
            if module.startswith("api.dialects.") and module not in COMMON:
                assert module.removeprefix("api.dialects.").removesuffix("_schema") == own, f"{file} imports {module}"
