"""What holds for every dialect that is listed, whatever it says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fakes import FakeWorker
from test_rooms import imports_of, module_of

import inlay.api.dialects
from inlay.api.app import make_app
from inlay.api.auth import Keyring
from inlay.api.dialects import registry
from inlay.api.dialects.dialect import Dialect
from inlay.api.envelope import Envelope
from inlay.cache.tiers import Cache
from inlay.config import make_settings
from inlay.errors import Overloaded, TooLarge
from inlay.serving.admission import Admission

FOLDER = Path(inlay.api.dialects.__file__).parent
COMMON = {"api.dialects.dialect", "api.dialects.registry"}


def app_of(*keys: str, **settings: object) -> Envelope:
    app, _, _ = make_app({"fake": FakeWorker()}, Cache([]), {}, Keyring(list(keys)), make_settings(settings))
    return app


def ask(app: Envelope, method: str, path: str, body: bytes = b"", **headers: str) -> httpx.Response:
    async def story() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://inlay") as client:
            return await client.request(method, path, content=body, headers=headers)

    return asyncio.run(story())


@pytest.fixture(params=[*registry.EMBED_DIALECTS, *registry.RANK_DIALECTS], ids=lambda dialect: dialect.path)
def dialect(request: pytest.FixtureRequest) -> Dialect[Any, Any, Any]:
    return request.param


def refusals(dialect: Dialect[Any, Any, Any]) -> Iterator[tuple[httpx.Response, int]]:
    """Errors that any route can meet, with the status that each must have."""
    app = app_of(max_body_bytes=100)
    yield ask(app, "POST", dialect.path, b"{"), 400
    yield ask(app, "POST", dialect.path, b"[]"), 400
    yield ask(app, "POST", dialect.path, b"{}"), 400
    yield ask(app, "POST", dialect.path, b" " * 200), 413
    yield ask(app, "GET", dialect.path), 405
    yield ask(app_of("secret"), "POST", dialect.path, b"{}"), 401


def test_every_error_has_the_shape_that_the_dialect_declares(dialect: Dialect[Any, Any, Any]) -> None:
    for reply, status in refusals(dialect):
        assert reply.status_code == status
        msgspec.json.decode(reply.content, type=dialect.error)
        assert reply.headers["x-request-id"]


def test_another_method_is_told_which_there_are(dialect: Dialect[Any, Any, Any]) -> None:
    assert ask(app_of(), "GET", dialect.path).headers["allow"] == "POST"


def test_a_refusal_says_when_to_come_back(dialect: Dialect[Any, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Admission) -> None:
        raise Overloaded("full", retry_after=2.0)

    monkeypatch.setattr(Admission, "__enter__", full)
    body = b'{"input": "a", "texts": ["a"], "inputs": "a", "query": "a", "documents": ["a"]}'
    reply = ask(app_of(), "POST", dialect.path, body)
    if reply.status_code == 400:
        pytest.skip("its body has other fields")
    assert (reply.status_code, int(reply.headers["retry-after"]) >= 2) == (429, True)
    msgspec.json.decode(reply.content, type=dialect.error)


def test_the_description_has_its_structs(dialect: Dialect[Any, Any, Any]) -> None:
    api = ask(app_of(), "GET", "/openapi.json").json()
    post = api["paths"][dialect.path]["post"]
    names = (dialect.request, dialect.response, dialect.error)
    shown = (
        post["requestBody"]["content"]["application/json"]["schema"],
        post["responses"]["200"]["content"]["application/json"]["schema"],
        post["responses"]["429"]["content"]["application/json"]["schema"],
    )
    assert [schema["$ref"].rsplit("/", 1)[-1] for schema in shown] == [struct.__name__ for struct in names]


def test_errors_name_fields_as_the_dialect_does() -> None:
    error = TooLarge("input[3] is too long", param="input[3]", retry_after=1.0)
    renamed = error.renamed({"input": "texts"})
    assert (type(renamed), renamed.message, renamed.param) == (TooLarge, "texts[3] is too long", "texts[3]")
    assert error.renamed({"dimensions": "size"}) is error


def test_dialects_do_not_know_each_other() -> None:
    """Only `registry` knows them all; a dialect may have structs in a file NAME_schema beside it."""
    for file in FOLDER.glob("*.py"):
        own = file.stem.removesuffix("_schema")
        if own in ("dialect", "registry", "__init__"):
            continue
        for module in imports_of(module_of(file), file.read_text()):
            if module.startswith("api.dialects.") and module not in COMMON:
                assert module.removeprefix("api.dialects.").removesuffix("_schema") == own, f"{file} imports {module}"
