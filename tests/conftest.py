"""What many tests share: checkpoints, the demo model, and a real server in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from checkpoints import CONFIGS, make_checkpoint
from hypothesis import settings
from servers import RunningServer

SHARED = Path(__file__).resolve().parents[2] / "shared"

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, which transformers does, too
settings.register_profile("inlay", deadline=None)  # how fast a machine is decides no test
settings.load_profile("inlay")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the project with real tokenizers and data sets."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there: real tokenizers and data sets lie in it")
    return SHARED / "data"


@pytest.fixture(scope="session")
def qwen3_tokenizer(shared: Path) -> Path:
    return shared / "qwen3-tokenizer" / "embedding"


@pytest.fixture(scope="session")
def demo_path() -> Path:
    from inlay.models.source import locate

    return locate("demo")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny checkpoint of a family, made once."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = make_checkpoint(tmp_path_factory.mktemp("checkpoints") / f"tiny-{family}", family)
        return made[family]

    return make


@pytest.fixture(scope="session", params=sorted(CONFIGS))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def server(checkpoint: Callable[[str], Path]) -> Iterator[RunningServer]:
    """One server for many tests: the demo model and a tiny Qwen3 (Matryoshka, prompts, instructions)."""
    with RunningServer("demo", str(checkpoint("qwen3"))) as running:
        yield running
