from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoints import make_checkpoint
from safetensors.torch import load_file, save_file

from inlay.models import fingerprint as module
from inlay.models.fingerprint import fingerprint
from inlay.models.registry import FAMILIES
from inlay.models.spec import read_spec
from inlay.models.weights import weight_files
from inlay.types import Pooling


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model", "bert")


def digest(path: Path, dtype: str = "float32") -> str:
    return fingerprint(read_spec(path, "x"), weight_files(path), dtype)


def test_a_copy_under_another_name_has_the_same_fingerprint(path: Path, tmp_path: Path) -> None:
    assert digest(path) == digest(make_checkpoint(tmp_path / "copy", "bert"))
    assert len(digest(path)) == 32


def test_one_changed_weight_changes_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4096)  # so that the change is in a chunk that is not the first
    before = digest(path)
    tensors = load_file(path / "model.safetensors")
    tensors["encoder.layer.2.output.dense.bias"][3] += 1e-3
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    assert digest(path) != before


def test_the_dtype_changes_it(path: Path) -> None:
    assert digest(path, "float32") != digest(path, "bfloat16")


def test_the_pooling_changes_it(path: Path) -> None:
    spec = read_spec(path, "x")
    files = weight_files(path)
    other = fingerprint(replace(spec, pooling=Pooling.CLS), files, "float32")
    assert fingerprint(spec, files, "float32") != other


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json"])
def test_tokenizer_and_config_change_it(path: Path, file: str) -> None:
    before = digest(path)
    content = json.loads((path / file).read_text())
    content["changed"] = True
    (path / file).write_text(json.dumps(content))
    assert digest(path) != before


def test_the_version_of_the_forward_pass_changes_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(path)
    monkeypatch.setitem(FAMILIES, "bert", replace(FAMILIES["bert"], forward_version=99))
    assert digest(path) != before
