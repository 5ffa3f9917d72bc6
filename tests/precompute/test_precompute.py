"""A corpus has what its input has, whatever happens while it is made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from corpus.sources import RECIPE, FakeSource, Killed, make_corpus, vector_of, write_rows
from fakes import SPEC
from msgspec.structs import astuple

from inlay.cache.key import cache_keys
from inlay.corpus.corpus import Corpus
from inlay.corpus.files.part import FAILED, TextVector
from inlay.corpus.recipe import Recipe
from inlay.errors import ConfigError, WorkerDead
from inlay.precompute.ingestion import BLOCK, Embedded
from inlay.types import Truncate


def rows_of(numbers: range, texts: int = 10**9) -> list[dict[str, Any]]:
    return [{"id": f"id{n}", "text": f"text {n % texts}", "lang": "de", "other": 1} for n in numbers]


def files_of(directory: Path) -> dict[str, bytes]:
    """All that must be equal between two runs; the manifest has the time of day."""
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in directory.rglob("*")
        if file.is_file() and file.name != "manifest.json"
    }


def test_rows_come_back_with_their_vectors_ids_texts_and_kept_columns(tmp_path: Path) -> None:
    make_corpus(tmp_path / "c", write_rows(tmp_path / "a.jsonl", rows_of(range(1200))))
    corpus = Corpus(tmp_path / "c")
    assert corpus.num_rows == 1200
    for row in (0, 511, 512, 1199):
        assert corpus.record(row) == {"id": f"id{row}", "text": f"text {row}", "lang": "de"}
        entry = corpus.vector_of(row)
        assert entry is not None
        assert np.array_equal(entry.vector, vector_of(f"text {row}"))
        assert entry.num_tokens == len(f"text {row}")
        key = cache_keys(SPEC.fingerprint, "dense.1", f"text {row}", Truncate.NONE, SPEC.max_tokens).whole
        found = corpus.find(key)
        assert found is not None
        assert found[0] == row
        assert np.array_equal(found[1].vector, entry.vector)
    assert corpus.find(b"?" * 32) is None
    assert [record["id"] for record in corpus.records()] == [f"id{n}" for n in range(1200)]


def test_equal_texts_are_computed_once(tmp_path: Path) -> None:
    source = FakeSource()
    outcome = make_corpus(tmp_path / "c", write_rows(tmp_path / "a.jsonl", rows_of(range(1200), texts=7)), source)
    assert sorted(source.texts) == sorted({f"text {n}" for n in range(7)})
    assert outcome.manifest.parts[0].num_distinct == 7
    corpus = Corpus(tmp_path / "c")
    assert all(np.array_equal(corpus.parts[0].vectors[n], vector_of(f"text {n % 7}")) for n in range(1200))


def test_rows_that_fail_are_listed_and_cost_only_themselves(tmp_path: Path) -> None:
    rows = rows_of(range(1000))
    rows[3]["text"] = "bad"
    rows[700]["text"] = "bad"  # the same text, in a later block
    rows[5]["text"] = ""
    rows[6] = {"id": "id6", "lang": "de"}
    rows[7]["id"] = "id2"
    rows[8]["id"] = None
    rows[9] = rows[2]  # the same row again is no fault
    outcome = make_corpus(tmp_path / "c", write_rows(tmp_path / "a.jsonl", rows))
    assert (outcome.num_new, outcome.num_failed) == (993, 6)
    assert outcome.report == tmp_path / "c" / FAILED
    reported = {row["row"]: row["problem"] for row in map(json.loads, outcome.report.read_text().splitlines())}
    assert reported.keys() == {4, 701, 6, 7, 8, 9}
    assert reported[4] == reported[701] == "is bad"
    assert "is empty" in reported[6]
    assert "no key 'text'" in reported[7]
    assert "of another text" in reported[8]
    assert "no id" in reported[9]


@pytest.mark.parametrize("num_parallel", [1, 4])
@pytest.mark.parametrize("killed_at", [0, 1, BLOCK, 3 * BLOCK + 1, 9 * BLOCK])
def test_a_run_that_was_killed_goes_on_and_ends_the_same(
    tmp_path: Path, killed_at: int, num_parallel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inlay.precompute.ingestion.CHECKPOINT_SECONDS", 0.0)
    rows = rows_of(range(5000), texts=4700)
    rows[100]["text"] = rows[4000]["text"] = "bad"
    file = write_rows(tmp_path / "a.jsonl", rows)
    make_corpus(tmp_path / "whole", file)
    killed, after = FakeSource(killed_at, num_parallel), FakeSource(num_parallel=num_parallel)
    with pytest.raises(Killed):
        make_corpus(tmp_path / "c", file, killed)
    assert not (tmp_path / "c" / "manifest.json").exists()
    make_corpus(tmp_path / "c", file, after)
    assert files_of(tmp_path / "c") == files_of(tmp_path / "whole")
    assert len(after.texts) <= 4701 - killed_at + (2 + num_parallel) * BLOCK, "it began again"


PROGRAM = """
import sys, time
sys.path[:0] = [{tests!r}, {tests!r} + "/corpus"]
import inlay.precompute.ingestion as ingestion
from corpus.sources import FakeSource, make_corpus
from pathlib import Path
ingestion.CHECKPOINT_SECONDS = 0.0
class Slow(FakeSource):
    def embed_texts(self, texts, recipe):
        time.sleep(0.03)
        return super().embed_texts(texts, recipe)
make_corpus(Path({corpus!r}), Path({file!r}), Slow())
"""


def test_kill_9_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", rows_of(range(20_000), texts=15_000))
    make_corpus(tmp_path / "whole", file)
    tests = str(Path(__file__).parents[1])
    program = PROGRAM.format(tests=tests, corpus=str(tmp_path / "c"), file=str(file))
    kills = 0
    for delay in np.random.default_rng(0).uniform(0.3, 0.8, size=15):
        running = subprocess.Popen([sys.executable, "-c", program])
        try:
            running.wait(timeout=float(delay))
            break
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
            kills += 1
    if not (tmp_path / "c" / "manifest.json").exists():
        subprocess.run([sys.executable, "-c", program], check=True)
    assert kills > 0
    assert files_of(tmp_path / "c") == files_of(tmp_path / "whole")


def test_stopped_between_a_parts_name_and_the_manifest_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_rows(tmp_path / "a.jsonl", rows_of(range(600)))
    make_corpus(tmp_path / "whole", file)

    def die(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("inlay.precompute.run.write_atomically", die)
        with pytest.raises(Killed):
            make_corpus(tmp_path / "c", file)
    source = FakeSource()
    make_corpus(tmp_path / "c", file, source)
    assert source.texts == [], "what was there was computed again"
    assert files_of(tmp_path / "c") == files_of(tmp_path / "whole")


def test_appending_writes_only_what_is_new(tmp_path: Path) -> None:
    make_corpus(tmp_path / "c", write_rows(tmp_path / "a.jsonl", rows_of(range(600))))
    before = files_of(tmp_path / "c")
    more = [*rows_of(range(500, 700)), {"id": "twin", "text": "text 3"}, {"id": "id5", "text": "changed"}]
    source = FakeSource()
    outcome = make_corpus(tmp_path / "c", write_rows(tmp_path / "b.jsonl", more), source, is_append=True)
    assert sorted(source.texts) == sorted([*(f"text {n}" for n in range(600, 700)), "changed"])
    assert (outcome.num_new, outcome.num_failed, outcome.manifest.num_rows) == (101, 1, 701)
    assert before.items() <= files_of(tmp_path / "c").items(), "older parts were changed"
    corpus = Corpus(tmp_path / "c")
    twin = corpus.vector_of(700)
    assert corpus.record(700)["id"] == "twin"
    assert twin is not None
    assert np.array_equal(twin.vector, vector_of("text 3"))
    again = make_corpus(tmp_path / "c", tmp_path / "a.jsonl", is_append=True)
    assert (again.num_new, again.num_failed, again.manifest.num_rows) == (0, 0, 701)
    assert not (tmp_path / "c" / "building").exists()


def test_f16_holds_unit_vectors_and_copies_them_as_they_are(tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(RECIPE, store_dtype="f16")
    make_corpus(tmp_path / "c", write_rows(tmp_path / "a.jsonl", rows_of(range(600), texts=5)), recipe=recipe)
    vectors = Corpus(tmp_path / "c").parts[0].vectors
    assert vectors.dtype == np.float16
    assert np.array_equal(vectors[3], vectors[598])
    expected = vector_of("text 3") / np.linalg.norm(vector_of("text 3"))
    np.testing.assert_allclose(vectors[3].astype(np.float32), expected, atol=1e-3)


def test_what_does_not_fit_together_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inlay.precompute.ingestion.CHECKPOINT_SECONDS", 0.0)
    file = write_rows(tmp_path / "a.jsonl", rows_of(range(600)))
    with pytest.raises(ConfigError, match="not a corpus yet"):
        make_corpus(tmp_path / "c", file, is_append=True)
    with pytest.raises(Killed):
        make_corpus(tmp_path / "c", file, FakeSource(killed_at=BLOCK))
    other = msgspec.structs.replace(RECIPE, prompt="query")
    with pytest.raises(ConfigError, match="unfinished corpus of another command"):
        make_corpus(tmp_path / "c", file, recipe=other)
    make_corpus(tmp_path / "c", file)
    again = FakeSource()
    assert make_corpus(tmp_path / "c", file, again).num_new == 0
    assert again.texts == [], "the same command, once it is done, does nothing"
    with pytest.raises(ConfigError, match="--append"):
        make_corpus(tmp_path / "c", write_rows(tmp_path / "b.jsonl", rows_of(range(5))))
    with pytest.raises(ConfigError, match="prompt none, not query"):
        make_corpus(tmp_path / "c", file, recipe=other, is_append=True)


def test_an_input_that_has_changed_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inlay.precompute.ingestion.CHECKPOINT_SECONDS", 0.0)
    rows = rows_of(range(3000))
    file = write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(Killed):
        make_corpus(tmp_path / "c", file, FakeSource(killed_at=4 * BLOCK))
    for column, value in (("text", "changed"), ("lang", "changed"), ("id", 10)):
        changed = [dict(row) for row in rows]
        changed[10][column] = value
        write_rows(file, changed)
        with pytest.raises(ConfigError, match="not the one"):
            make_corpus(tmp_path / "c", file)


def test_one_process_at_a_time_writes_to_a_corpus(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", rows_of(range(10)))

    class Nested(FakeSource):
        def embed_texts(self, texts: list[str], recipe: Any) -> Any:
            with pytest.raises(ConfigError, match="another process"):
                make_corpus(tmp_path / "c", file)
            return super().embed_texts(texts, recipe)

    make_corpus(tmp_path / "c", file, Nested())


@pytest.mark.parametrize("name", ["vectors.npy", "scales.npy", "rows.npy", "records.jsonl"])
@pytest.mark.parametrize("damage", ["gone", "short", "garbage"])
def test_unfinished_work_that_is_damaged_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: str
) -> None:
    monkeypatch.setattr("inlay.precompute.ingestion.CHECKPOINT_SECONDS", 0.0)
    file = write_rows(tmp_path / "a.jsonl", rows_of(range(3000)))
    with pytest.raises(Killed):
        make_corpus(tmp_path / "c", file, FakeSource(killed_at=4 * BLOCK))
    path = tmp_path / "c" / "building" / name
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "short":
        path.write_bytes(data[: len(data) // 2])
    elif name in ("rows.npy", "records.jsonl"):
        path.write_bytes(data[:1000] + bytes(200) + data[1200:])
    else:
        pytest.skip("what a row holds is proved when it is read")
    with pytest.raises(ConfigError, match="to start again"):
        make_corpus(tmp_path / "c", file)


def test_a_vector_of_another_width_stops_the_run(tmp_path: Path) -> None:
    class Wide(FakeSource):
        def embed_texts(self, texts: list[str], recipe: Recipe) -> list[Embedded]:
            return [TextVector(np.ones(3, dtype=np.float32), 1, False)] * len(texts)

    with pytest.raises(ConfigError, match="shape"):
        make_corpus(tmp_path / "c", write_rows(tmp_path / "a.jsonl", rows_of(range(5))), Wide())


def test_a_column_to_keep_that_is_not_there_is_told(tmp_path: Path) -> None:
    rows = [{"id": n, "text": f"t{n}"} for n in range(3)]
    with pytest.warns(UserWarning, match="'lang'"):
        make_corpus(tmp_path / "c", write_rows(tmp_path / "a.jsonl", rows), keep=("lang",))


def test_a_fault_that_is_no_rows_own_stops_the_run_and_costs_no_row(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", rows_of(range(2000)))

    class Dying(FakeSource):
        def embed_texts(self, texts: list[str], recipe: Recipe) -> list[Embedded]:
            answers = super().embed_texts(texts, recipe)
            return [WorkerDead("the device is gone")] * len(texts) if len(self.texts) > BLOCK else answers

    with pytest.raises(WorkerDead):
        make_corpus(tmp_path / "c", file, Dying())
    outcome = make_corpus(tmp_path / "c", file)
    assert (outcome.num_new, outcome.num_failed) == (2000, 0)


def test_without_a_single_vector_there_is_no_corpus(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", [{"id": 1, "text": ""}])
    with pytest.raises(ConfigError, match=FAILED):
        make_corpus(tmp_path / "c", file)
    assert "is empty" in (tmp_path / "c" / FAILED).read_text()


class CuttingSource(FakeSource):
    """Cuts texts of over six characters."""

    def embed_texts(self, texts: list[str], recipe: Recipe) -> list[Embedded]:
        answers = super().embed_texts(texts, recipe)
        return [
            answer._replace(is_truncated=len(text) > 6) if isinstance(answer, TextVector) else answer
            for text, answer in zip(texts, answers, strict=True)
        ]


def test_a_corpus_made_with_cutting_serves_default_clients_what_was_not_cut(tmp_path: Path) -> None:
    rows = [{"id": f"id{n}", "text": f"text {n}"} for n in range(20)]
    recipe = msgspec.structs.replace(RECIPE, truncate=Truncate.END)
    file = write_rows(tmp_path / "a.jsonl", rows)
    make_corpus(tmp_path / "c", file, CuttingSource(), recipe=recipe)
    corpus = Corpus(tmp_path / "c")
    for n in range(20):
        text = f"text {n}"
        whole, cut = astuple(cache_keys(SPEC.fingerprint, "dense.1", text, Truncate.END, SPEC.max_tokens))
        assert cut is not None
        assert (corpus.find(whole) is not None) == (len(text) <= 6)
        assert (corpus.find(cut) is not None) == (len(text) > 6)
    again = make_corpus(tmp_path / "c", file, CuttingSource(), recipe=recipe, is_append=True)
    assert (again.num_new, again.num_failed) == (0, 0)


def test_a_second_run_says_when_its_input_has_changed(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.jsonl", rows_of(range(30)))
    make_corpus(tmp_path / "c", file)
    assert make_corpus(tmp_path / "c", file).num_new == 0
    write_rows(file, rows_of(range(31)))
    with pytest.raises(ConfigError, match="has changed since: add the new rows with --append"):
        make_corpus(tmp_path / "c", file)


def test_a_second_run_tells_again_of_the_rows_that_failed(tmp_path: Path) -> None:
    rows = rows_of(range(30))
    rows[3]["text"] = "bad"
    file = write_rows(tmp_path / "a.jsonl", rows)
    first = make_corpus(tmp_path / "c", file)
    again = make_corpus(tmp_path / "c", file)
    assert (again.num_new, again.num_failed, again.report) == (0, first.num_failed, first.report)
    assert again.report is not None
