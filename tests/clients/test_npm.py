"""The vendors' own clients from npm, run by node where it is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import KEY

HERE = Path(__file__).resolve().parent / "npm"
MODULES = Path(os.environ.get("INLAY_NPM", HERE.parents[2] / "build" / "clients-npm"))


@pytest.fixture(scope="module")
def found(url: str) -> dict[str, Any]:
    node = shutil.which("node")
    if node is None or not (MODULES / "node_modules").is_dir():
        pytest.skip("needs node and the packages of npm/package.json: make test-clients installs them")
    script = shutil.copy(HERE / "clients.mjs", MODULES / "clients.mjs")
    done = subprocess.run([node, script, url, KEY], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("client", ["openai", "cohere", "voyage", "ollama", "huggingFace"])
def test_vectors_are_those_of_plain_http(found: dict[str, Any], floats: list[list[float]], client: str) -> None:
    np.testing.assert_allclose(found[client], floats, atol=1e-6)


def test_types_and_orders(found: dict[str, Any]) -> None:
    assert found["cohereInt8"] == [384] * 3
    assert found["cohereRerank"] == found["voyageRerank"]
    assert sorted(found["cohereRerank"]) == [0, 1, 2]
    assert found["ollamaModels"] == ["demo:latest", "ranker:latest"]


def test_errors_are_the_clients_own(found: dict[str, Any]) -> None:
    names = {name: found[name] for name in ("openaiError", "openaiKey", "cohereError", "ollamaError")}
    assert names == {
        "openaiError": "NotFoundError",
        "openaiKey": "AuthenticationError",
        "cohereError": "NotFoundError",
        "ollamaError": "ResponseError",
    }
