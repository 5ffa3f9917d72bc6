"""precompute, search, index and export as a user runs them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from command import run_inlay
from corpus.sources import write_rows
from running import are_same
from servers import RunningServer

from inlay import Embedder
from inlay.corpus.corpus import Corpus
from inlay.errors import ConfigError
from inlay.precompute.remote_source import RemoteSource

WORDS = "stone ring jewel train rail water river moss bird song light".split()


def texts_of(number: int) -> list[str]:
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, 4)) for _ in range(number)]


def vectors_of(directory: Path) -> np.ndarray:
    return np.concatenate([part.vectors for part in Corpus(directory).parts])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"id": f"d{n}", "text": text, "even": n % 2 == 0} for n, text in enumerate(texts_of(300))]
    return write_rows(tmp_path_factory.mktemp("input") / "a.jsonl", rows)


@pytest.fixture(scope="module")
def corpus(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("corpora") / "c"
    done = run_inlay("precompute", str(file), "-o", str(directory), "--id", "id", "--keep", "even")
    assert done.returncode == 0, done.stderr
    assert "300 new rows, 300 in all, 0 failed" in done.stderr
    return directory


def test_the_vectors_are_the_librarys(corpus: Path) -> None:
    with Embedder("demo") as embedder:
        expected = embedder.embed(texts_of(300), normalize=False)
    assert np.array_equal(vectors_of(corpus), expected)


def test_a_server_gives_the_same_corpus(corpus: Path, file: Path, tmp_path: Path) -> None:
    rows = [*file.read_text().splitlines(), '{"id": "bad", "text": ""}', f'{{"id": "long", "text": "{"long " * 400}"}}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    with RunningServer("demo", "--max-inputs-per-request", "1000", "--api-key", "secret") as server:
        arguments = ["precompute", str(tmp_path / "a.jsonl"), "-o", str(tmp_path / "c"), "--id", "id", "--keep", "even"]
        refused = run_inlay(*arguments, "--server", server.url)
        assert refused.returncode != 0
        assert "key" in refused.stderr
        done = run_inlay(*arguments, "--server", server.url, INLAY_API_KEY="secret")
        assert done.returncode == 1
        assert "2 failed" in done.stderr
        found = run_inlay("search", str(tmp_path / "c"), "train", "--server", server.url, INLAY_API_KEY="secret")
        assert found.stdout == run_inlay("search", str(corpus), "train").stdout
    assert are_same(vectors_of(tmp_path / "c"), vectors_of(corpus))
    problems = [json.loads(line)["problem"] for line in (tmp_path / "c" / "failed.jsonl").read_text().splitlines()]
    assert "is empty" in problems[0]
    assert "tokens" in problems[1]


def test_vectors_of_a_model_that_has_changed_behind_the_url_are_not_taken(corpus: Path) -> None:
    recipe = msgspec.structs.replace(Corpus(corpus).recipe, fingerprint="of the model before")
    with RunningServer("demo") as server:
        source = RemoteSource(server.url, None, None)
        with pytest.raises(ConfigError, match="another model"):
            source.embed_texts(["a text"], recipe)
        other = "float32" if source.spec.dtype != "float32" else "bfloat16"
        source.close()
        arguments = ["precompute", "-", "-o", "nowhere", "--server", server.url, "--dtype", other]
        done = run_inlay(*arguments, text="a text\n")
        assert (done.returncode, "computes in" in done.stderr) == (2, True)


def test_a_server_that_is_not_there_is_named(tmp_path: Path, file: Path) -> None:
    done = run_inlay("precompute", str(file), "-o", str(tmp_path / "c"), "--server", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert "http://127.0.0.1:1 cannot be reached" in done.stderr


def test_search_prints_the_best_rows(corpus: Path) -> None:
    query = texts_of(300)[7]
    lines = run_inlay("search", str(corpus), query, "-k", "3").stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("1.0000  d7  ")
    (line,) = run_inlay("search", str(corpus), query, "-k", "1", "--json", "--filter", "even=true").stdout.splitlines()
    assert json.loads(line)["even"] is True


def test_searching_with_another_model_is_refused(corpus: Path) -> None:
    dtype = "bfloat16" if Corpus(corpus).recipe.fingerprint == _fingerprint("float32") else "float32"
    done = run_inlay("search", str(corpus), "train", "--dtype", dtype)
    assert done.returncode == 1
    assert "vectors of different models cannot be compared" in " ".join(done.stderr.split())


def _fingerprint(dtype: str) -> str:
    with Embedder("demo", dtype=dtype) as embedder:
        return embedder.spec.fingerprint


def test_an_index_tells_its_recall_and_is_searched(corpus: Path) -> None:
    exact = run_inlay("search", str(corpus), "train", "-k", "3").stdout
    done = run_inlay("index", str(corpus))
    assert float(done.stdout.split("recall@10 ")[1].split()[0]) >= 0.95
    assert run_inlay("search", str(corpus), "train", "-k", "3").stdout == exact
    assert run_inlay("search", str(corpus), "train", "-k", "3", "--exact").stdout == exact
    assert run_inlay("index", str(corpus), "--kind", "tree").returncode == 2


@pytest.mark.parametrize("url", ["qdrant://{}/q?collection=c", "milvus://{}/m.db?collection=c"])
def test_a_corpus_is_exported_and_searched_there(corpus: Path, tmp_path: Path, url: str) -> None:
    url = url.format(tmp_path)
    assert run_inlay("export", str(corpus), "--to", url).returncode == 0
    there = run_inlay("search", str(corpus), "train", "-k", "5", "--in", url)
    here = run_inlay("search", str(corpus), "train", "-k", "5", "--exact")
    assert [line.split()[1] for line in there.stdout.splitlines()] == [
        line.split()[1] for line in here.stdout.splitlines()
    ]


def test_verify_reads_every_file_of_a_corpus(corpus: Path, tmp_path: Path) -> None:
    copy = tmp_path / "c"
    shutil.copytree(corpus, copy)
    assert run_inlay("cache", "verify", str(copy)).stdout == "300 rows in 1 parts, 0 files are broken\n"
    path = copy / "part-0001" / "records.jsonl"
    path.write_bytes(path.read_bytes().replace(b"stone", b"scone", 1))
    done = run_inlay("cache", "verify", str(copy))
    assert done.returncode == 1
    assert "records.jsonl is not what was written" in done.stdout


def test_stdin_a_folder_and_a_csv_are_inputs(tmp_path: Path) -> None:
    piped = run_inlay("precompute", "-", "-o", str(tmp_path / "piped"), text="one\ntwo\n")
    assert piped.returncode == 0
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("one\n")
    (tmp_path / "docs" / "b.csv").write_text("text\ntwo\n")
    assert run_inlay("precompute", str(tmp_path / "docs"), "-o", str(tmp_path / "folder")).returncode == 0
    assert np.array_equal(vectors_of(tmp_path / "piped"), vectors_of(tmp_path / "folder"))
    assert [record["id"] for record in Corpus(tmp_path / "folder").records()] == ["a.txt:1", "b.csv:1"]


def heed_interrupts() -> None:
    """A shell has what it runs in the background ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_killed_and_interrupted_runs_go_on_where_they_were(tmp_path: Path) -> None:
    rows = [{"text": f"{text} {n}"} for n, text in enumerate(texts_of(20_000))]  # five groups that are written down
    file = write_rows(tmp_path / "a.jsonl", rows)
    command = [sys.executable, "-m", "inlay", "precompute", str(file), "-o", str(tmp_path / "c")]
    progress = tmp_path / "c" / "building" / "progress.json"
    seen = 0
    for sign in (signal.SIGINT, signal.SIGKILL):
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts)
        for _ in range(600):
            if progress.exists() and json.loads(progress.read_text())["rows_read"] > seen:
                break
            time.sleep(0.05)
        running.send_signal(sign)
        _, said = running.communicate(timeout=60)
        assert running.returncode == (130 if sign == signal.SIGINT else -signal.SIGKILL), said
        seen = json.loads(progress.read_text())["rows_read"]
        assert 0 < seen < 20_000
    assert subprocess.run(command, capture_output=True).returncode == 0
    with Embedder("demo") as embedder:
        expected = embedder.embed([row["text"] for row in rows], normalize=False)
    assert are_same(vectors_of(tmp_path / "c"), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["precompute", "/nowhere.jsonl", "-o", "{}/x"], "cannot be read"),
        (["precompute", "{}/a.txt", "-o", "/proc/x"], "/proc/x"),
        (["precompute", "{}/a.txt", "-o", "{}/x", "--store-dtype", "f8"], "--store-dtype"),
        (["precompute", "{}/a.txt", "-o", "{}/x", "--append"], "not a corpus yet"),
        (["precompute", "{}/a.txt", "-o", "{}/a.txt"], "a.txt"),
        (["precompute", "{}", "-o", "{}/x"], "lies in the input"),
        (["search", "{}", "query"], "is not a corpus"),
        (["index", "{}"], "is not a corpus"),
        (["export", "{}", "--to", "qdrant:///x?collection=c"], "is not a corpus"),
    ],
)
def test_mistakes_are_one_line_that_names_them(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    done = run_inlay(*(argument.format(tmp_path) for argument in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("retry_after", ["soon", "Tue, 24 Nov 2026 00:00:00 GMT", "0", ""])
def test_a_time_to_come_back_that_is_no_number_is_no_error(
    monkeypatch: pytest.MonkeyPatch, file: Path, retry_after: str
) -> None:
    replies = [httpx.Response(503, headers={"retry-after": retry_after}, json={"error": {"message": "busy"}})]
    model = {"id": "m", "family": "bert", "width": 4, "max_tokens": 9, "pooling": "mean", "prompts": {}}
    model |= {"default_prompt": None, "instruction_template": None, "dtype": "float32", "fingerprint": "f"}
    replies.append(httpx.Response(200, json={"data": [model]}))
    monkeypatch.setattr(httpx.Client, "request", lambda *arguments, **more: replies.pop(0))
    monkeypatch.setattr("inlay.precompute.remote_server.time.sleep", lambda seconds: None)
    assert RemoteSource("http://x", None, None).spec.name == "m"


def test_a_server_that_takes_fewer_texts_at_a_time_gives_the_same_corpus(
    corpus: Path, file: Path, tmp_path: Path
) -> None:
    with RunningServer("demo", "--max-inputs-per-request", "50", "--max-body-bytes", "4KiB") as server:
        done = run_inlay("precompute", str(file), "-o", str(tmp_path / "c"), "--id", "id", "--server", server.url)
    assert done.returncode == 0, done.stderr
    assert are_same(vectors_of(tmp_path / "c"), vectors_of(corpus))


def test_a_corpus_of_one_row_is_indexed_and_searched(tmp_path: Path) -> None:
    one = write_rows(tmp_path / "a.jsonl", [{"text": "stone ring"}])
    assert run_inlay("precompute", str(one), "-o", str(tmp_path / "c")).returncode == 0
    done = run_inlay("index", str(tmp_path / "c"))
    assert done.returncode == 0, done.stderr
    assert "stone ring" in run_inlay("search", str(tmp_path / "c"), "jewel").stdout
