"""Adapters as models of a server, of the library and of the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from adapters import load_adapted, make_adapter
from checkpoints import text_of, write_json
from command import run_inlay
from fakes import FakeWorker
from servers import RunningServer
from tokenizers import Tokenizer

from inlay import ConfigError, Embedder
from inlay.serving.adapter_worker import AdapterWorker
from inlay.types import FloatArray, Truncate, Work

TEXTS = [text_of(length, length) for length in (3, 17, 30)]


@pytest.fixture(scope="module")
def base(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("qwen3")


@pytest.fixture(scope="module")
def root(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two adapters."""
    path = tmp_path_factory.mktemp("served")
    make_adapter(path / "law", base, seed=1)
    make_adapter(path / "med", base, seed=2, use_dora=True)
    write_json(path / "med" / "config_sentence_transformers.json", {"prompts": {"query": "query : "}})
    return path


@pytest.fixture(scope="module")
def server(base: Path, root: Path) -> Iterator[RunningServer]:
    adapters = [f"--adapter={name}={root / name}" for name in ("law", "med")]
    with RunningServer(str(base), "--served-model-name=base", "--dtype=float32", *adapters) as running:
        yield running


def reference(base: Path, adapter: Path | None, texts: list[str]) -> FloatArray:
    """Unit vectors of peft."""
    import torch
    from references import load_reference

    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    hidden_of = load_reference(base) if adapter is None else load_adapted(base, adapter)
    with torch.inference_mode():
        vectors = np.stack([hidden_of(tokenizer.encode(text).ids)[-1].numpy() for text in texts])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def vectors_of(server: RunningServer, model: str, texts: list[str] = TEXTS, **more: object) -> FloatArray:
    reply = server.post({"model": model, "input": texts, **more})
    assert reply.status_code == 200, reply.text
    assert reply.json()["model"] == model
    return np.array([row["embedding"] for row in reply.json()["data"]], dtype=np.float32)


def test_each_name_gives_the_vectors_of_its_adapter(server: RunningServer, base: Path, root: Path) -> None:
    for name, adapter in (("base", None), ("law", root / "law"), ("med", root / "med")):
        found, expected = vectors_of(server, name), reference(base, adapter, TEXTS)
        assert (found * expected).sum(axis=1).min() >= 0.99999, name


def test_a_text_is_cached_for_each_adapter_by_itself(server: RunningServer) -> None:
    body = {"input": ["call day now"]}
    seen = [server.post({**body, "model": name}).headers["x-inlay-cache"] for name in ("base", "law", "med") * 2]
    assert seen == ["miss"] * 3 + ["hit"] * 3


def test_an_adapter_has_its_own_prompts(server: RunningServer, base: Path, root: Path) -> None:
    found = vectors_of(server, "med", ["hello world"], prompt_name="query")
    expected = reference(base, root / "med", ["query : hello world"])
    assert float(found[0] @ expected[0]) >= 0.99999


def test_models_tell_the_base_of_an_adapter(server: RunningServer) -> None:
    rows = {row["id"]: row for row in server.get("/v1/models").json()["data"]}
    assert {name: row["parent"] for name, row in rows.items()} == {"base": None, "law": "base", "med": "base"}
    assert len({row["fingerprint"] for row in rows.values()}) == 3
    assert server.get("/v1/models/law").json() == rows["law"]


def test_metrics_count_an_engine_once_and_inputs_by_their_model(server: RunningServer) -> None:
    vectors_of(server, "law", ["could way"])
    text = server.get("/metrics").text
    assert 'inlay_engine_sequences_total{model="base"}' in text
    assert 'inlay_engine_sequences_total{model="law"}' not in text
    assert 'inlay_inputs_total{model="law",source="model"}' in text
    assert 'inlay_engine_ready{model="law"} 1.0' in text


def test_the_log_does_not_warn_of_an_adapter_that_names_its_base(server: RunningServer, base: Path) -> None:
    assert "the adapter names another base" not in server.output()  # by the directory, though served by another name


def test_work_is_marked_and_goes_to_the_worker_of_the_base() -> None:
    worker = FakeWorker()
    adapter = AdapterWorker(worker, "mine")
    adapter.submit_many([Work(7, "a", Truncate.NONE, 10)], lambda answers: None)
    assert [(work.id, work.adapter) for work in worker.submitted] == [(7, "mine")]
    adapter.cancel_many([7])
    assert worker.cancelled == {7}
    assert adapter.close()
    assert adapter.stats.batches == 0


def test_the_library_puts_an_adapter_into_the_weights(base: Path, root: Path) -> None:
    expected = reference(base, root / "law", TEXTS)
    for model, arguments in ((str(base), {"adapter": str(root / "law")}), (str(root / "law"), {})):
        with Embedder(model, dtype="float32", cache="none", **arguments) as embedder:  # type: ignore[arg-type]
            assert embedder.spec.name == "law"
            assert (embedder.embed(TEXTS) * expected).sum(axis=1).min() >= 0.99999


def test_verify_compares_an_adapter_with_peft(base: Path, root: Path) -> None:
    done = run_inlay("verify", str(base), "--adapter", str(root / "med"), "--dtype", "float32")
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if "sentence-transformers" in line)
    assert "pass" in row


def test_the_other_verbs_take_one_adapter(base: Path, root: Path, tmp_path: Path) -> None:
    twice = run_inlay("embed", "--model", str(base), "--adapter", f"{root / 'law'},{root / 'med'}", text="a\n")
    several = run_inlay(
        "embed", "--model", str(base), "--adapter", str(root / "law"), "--adapter", str(root / "med"), text="a\n"
    )
    for done in (twice, several):
        assert done.returncode != 0
    assert "given several times" in several.stderr
    quantised = run_inlay("quantize", str(root / "law"), "-o", str(tmp_path / "new"))
    assert quantised.returncode != 0
    assert "is an adapter" in quantised.stderr
    shown = run_inlay("models", str(root / "law"))
    assert base.name in shown.stdout.replace("\n", "")


def test_a_corpus_made_with_an_adapter_is_searched_with_it(base: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(TEXTS))
    made = run_inlay(
        *("precompute", str(tmp_path / "a.txt"), "-o", str(tmp_path / "corpus"), "--dtype", "float32"),
        *("--model", str(base), "--adapter", str(root / "law")),
    )
    assert made.returncode == 0, made.stderr
    found = run_inlay(
        "search", str(tmp_path / "corpus"), TEXTS[1], "--dtype", "float32", "--json", "--prompt", "document"
    )
    assert found.returncode == 0, found.stderr
    assert '"score": 1.0' in found.stdout.splitlines()[0] or '"score": 0.99999' in found.stdout.splitlines()[0]


def test_an_adapter_of_another_model_is_told_of(base: Path, root: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(root / "law", own)
    config = json.loads((own / "adapter_config.json").read_text())
    write_json(own / "adapter_config.json", {**config, "base_model_name_or_path": "other/model"})
    with (
        pytest.warns(UserWarning, match="names another base than"),
        Embedder(str(base), adapter=str(own), dtype="float32", cache="none") as embedder,
    ):
        assert embedder.spec.name == "own"
    with pytest.raises(ConfigError, match="adapter='' is not the directory"):
        Embedder(str(base), adapter="")
