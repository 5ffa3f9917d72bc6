"""The models whose weights packages ship, with their real weights, beside sentence-transformers."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from inlay import Embedder
from inlay.errors import ModelError
from inlay.models import packages
from inlay.models.packages import PACKAGED, locate_packaged, models_directory
from inlay.models.source import served_name

SCORES = {"demo-static": 0.8279, "demo-light": 0.8658, "demo-large": 0.8811}  # Spearman on STS-B dev
MODELS = [pytest.param(name, marks=pytest.mark.large) if name == "demo-large" else name for name in SCORES]
TEXTS = ["glacier", "The capital of China is Beijing.", "Ünïcödé, 中文, emoji 🙂", " leading and trailing ", "a\nb\tc"]


@pytest.fixture(params=MODELS, scope="module")
def fetched(request: pytest.FixtureRequest) -> tuple[str, Path]:
    return request.param, locate_packaged(request.param)


def test_every_packaged_model_is_named_by_itself() -> None:
    assert PACKAGED.keys() == SCORES.keys()
    assert [served_name(name) for name in PACKAGED] == list(PACKAGED)
    assert all(packaged.licence for packaged in PACKAGED.values())


def test_vectors_are_those_of_sentence_transformers(fetched: tuple[str, Path]) -> None:
    name, path = fetched
    expected = SentenceTransformer(str(path), device="cpu").float().encode(TEXTS)
    with Embedder(name, dtype="float32") as embedder:
        found = embedder.embed(TEXTS)
    assert found.shape == expected.shape
    sizes = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert (np.vecdot(found, expected) / sizes).min() >= 0.999999
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(expected, axis=1), rtol=1e-5)


@pytest.mark.large
@pytest.mark.timeout(600)
def test_stsb_gives_the_spearman_of_sentence_transformers(fetched: tuple[str, Path], shared: Path) -> None:
    name, path = fetched
    with (shared / "stsb-dev" / "stsb-en-dev.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    texts = [row[0] for row in rows] + [row[1] for row in rows]

    def score(vectors: np.ndarray) -> float:
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        first, second = np.split(unit, 2)
        return round(float(spearmanr((first * second).sum(axis=1), [float(row[2]) for row in rows]).statistic), 4)

    with Embedder(name, dtype="float32") as embedder:
        ours = score(embedder.embed(texts))
    assert ours == score(SentenceTransformer(str(path), device="cpu").float().encode(texts, batch_size=64))
    assert ours == SCORES[name]


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return models_directory()


def fake_pip(monkeypatch: pytest.MonkeyPatch, *, returncode: int, files: Callable[[Path], object]) -> None:
    class Done:
        stderr = "ERROR: No matching distribution found"

    def run(command: list[str], **more: object) -> Done:
        place = Path(command[command.index("--dest") + 1])
        place.mkdir()
        files(place)
        Done.returncode = returncode  # type: ignore[attr-defined]
        return Done()

    monkeypatch.setattr(packages.subprocess, "run", run)


def test_what_the_index_does_not_give_is_told_and_nothing_is_left(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, returncode=1, files=lambda place: None)
    with pytest.raises(ModelError, match=r"could not be fetched: pip download wordllama==.*No matching distribution"):
        locate_packaged("demo-static")
    assert list(empty_cache.iterdir()) == []


def test_what_a_killed_fetch_has_left_goes_after_a_day(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old", "new"):
        (empty_cache / f".demo-static-{name}").mkdir(parents=True)
    os.utime(empty_cache / ".demo-static-old", (0, 0))
    fake_pip(monkeypatch, returncode=1, files=lambda place: None)
    with pytest.raises(ModelError, match="could not be fetched"):
        locate_packaged("demo-static")
    assert [left.name for left in empty_cache.iterdir()] == [".demo-static-new"]


def test_a_package_of_another_content_is_refused(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(monkeypatch, returncode=0, files=lambda place: (place / "a.whl").write_bytes(b"another"))
    with pytest.raises(ModelError, match="is not what it should be"):
        locate_packaged("demo-static")
    assert list(empty_cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="set XDG_CACHE_HOME"):
        locate_packaged("demo-static")


def test_a_model_that_is_not_whole_is_named(empty_cache: Path) -> None:
    (empty_cache / "demo-static").mkdir(parents=True)
    with pytest.raises(ModelError, match="is not whole: delete it"):
        locate_packaged("demo-static")


def test_a_relative_cache_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert models_directory() == Path("~/.cache/inlay/models").expanduser()


def test_without_pip_the_remedy_is_named(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="ensurepip"):
        locate_packaged("demo-static")
