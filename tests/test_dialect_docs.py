"""The exchanges that docs/dialects.md prints are what a server answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import RunningServer

PAGE = Path(__file__).resolve().parents[1] / "docs" / "dialects.md"
BLOCK = re.compile(r"```http\n(GET|POST) (\S+)\n(.*?)\n\n(\d+)\n(.*?)\n```", re.DOTALL)
ANY = "…"  # in the page: anything, or what follows in a list
EXCHANGES = BLOCK.findall(PAGE.read_text())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    from rerankers import make_reranker

    path = make_reranker(tmp_path_factory.mktemp("docs") / "ranker", "bert")
    names = ("--served-model-name=demo", "--served-model-name=ranker")
    with RunningServer("demo", str(path), *names, "--dtype=float32") as running:
        yield running


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda exchange: f"{exchange[1]} {exchange[3]}")
def test_a_printed_exchange_is_what_happens(server: RunningServer, exchange: tuple[str, ...]) -> None:
    import httpx

    method, path, body, status, expected = exchange
    reply = httpx.request(method, server.url + path, content=body.strip().encode() or None, timeout=60)
    assert reply.status_code == int(status), reply.text
    assert is_like(reply.json(), json.loads(expected)), reply.text


def test_every_dialect_has_a_printed_exchange() -> None:
    from inlay.api.dialects.registry import DIALECTS

    shown = {path for _, path, *_ in EXCHANGES}
    for dialect in DIALECTS:
        assert shown & set(dialect.paths), f"{dialect.summary} is not shown"


def is_like(found: object, shown: object) -> bool:
    if shown == ANY:
        return True
    if isinstance(shown, dict) and isinstance(found, dict):
        return found.keys() == shown.keys() and all(is_like(found[name], value) for name, value in shown.items())
    if isinstance(shown, list) and isinstance(found, list):
        if shown and shown[-1] == ANY:
            found, shown = found[: len(shown) - 1], shown[:-1]
        return len(found) == len(shown) and all(map(is_like, found, shown))
    if isinstance(shown, float) and isinstance(found, float):
        return abs(found - shown) < 1e-3
    return type(found) is type(shown) and found == shown


def test_the_comparison_can_fail() -> None:
    assert is_like({"a": [0.1, 2, "x"]}, {"a": [0.1001, ANY]})
    for wrong in ({"a": [0.2, ANY]}, {"b": ANY}, {"a": [0.1]}, {"a": ["0.1", ANY]}):
        assert not is_like({"a": [0.1, 2]}, wrong)
