"""What the clients talk to: `inlay serve` from the project's own environment, which the clients need not share."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path.append(str(TESTS))

from servers import RunningServer  # noqa: E402

PYTHON = os.environ.get("INLAY_PYTHON", str(TESTS.parent / ".venv" / "bin" / "python"))
KEY = "secret"
MAKE_RERANKER = """
import sys
from pathlib import Path
from rerankers import make_reranker
make_reranker(Path(sys.argv[1]), "bert")
"""


@pytest.fixture(scope="session")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "ranker"
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    subprocess.run([PYTHON, "-c", MAKE_RERANKER, str(path)], check=True, env=environment, capture_output=True)
    return path


@pytest.fixture(scope="session")
def server(ranker: Path) -> Iterator[RunningServer]:
    """MiniLM as `demo` and by the names that some clients insist on, and a reranker; a key opens it."""
    names = ("text-embedding-3-small", "embed-english-v3.0", "jina-embeddings-v3")
    aliases = [f"--alias={name}=demo" for name in names] + ["--alias=rerank-v3.5=ranker"]
    arguments = ["demo", str(ranker), "--served-model-name=demo", "--served-model-name=ranker", "--api-key", KEY]
    with RunningServer(*arguments, *aliases, "--dtype=float32", python=PYTHON) as running:
        yield running


@pytest.fixture(scope="session")
def url(server: RunningServer) -> str:
    return server.url


@pytest.fixture(scope="session")
def open_url(ranker: Path) -> Iterator[str]:
    """The same without a key, for clients that send none, and with room for one request."""
    arguments = ["demo", str(ranker), "--served-model-name=demo", "--served-model-name=ranker"]
    with RunningServer(*arguments, "--max-concurrent-requests=1", "--dtype=float32", python=PYTHON) as running:
        yield running.url


@contextmanager
def full(url: str) -> Iterator[None]:
    """While a request of seconds has the only place."""
    texts = [f"{uuid.uuid4()} {'stone ' * 200}" for _ in range(200)]
    began = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=120) as client:
            began.set()
            client.post(f"{url}/v1/embeddings", json={"input": texts, "model": "demo"})

    thread = threading.Thread(target=ask)
    thread.start()
    began.wait()
    with httpx.Client(timeout=60) as client:
        while client.post(f"{url}/v1/embeddings", json={"input": "is it full"}).status_code != 429:
            assert thread.is_alive(), "it was never full"
    yield
    thread.join()


@pytest.fixture(scope="session")
def floats(server: RunningServer) -> list[list[float]]:
    """What TEXTS have, by plain HTTP."""
    body, headers = {"input": TEXTS, "model": "demo"}, {"authorization": f"Bearer {KEY}"}
    reply = httpx.post(f"{server.url}/v1/embeddings", json=body, headers=headers)
    return [row["embedding"] for row in reply.json()["data"]]


TEXTS = ["a stone in a ring", "a railway timetable", "jewellery"]
DOCUMENTS = ["world", "hello hello", "the way of the water"]
