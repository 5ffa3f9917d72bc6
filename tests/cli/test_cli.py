from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_checkpoint
from command import run_inlay
from servers import RunningServer

from inlay import Embedder
from inlay.cli.embedders import open_embedder
from inlay.cli.sglang import translate
from inlay.config_values import make_settings
from inlay.errors import ConfigError
from inlay.ops.int8 import can_multiply_bytes


def test_help_names_the_verbs_and_every_option_with_its_variable() -> None:
    whole = run_inlay("--help").stdout
    assert all(verb in whole for verb in ("serve", "embed", "verify", "models"))
    serve = " ".join(run_inlay("serve", "--help").stdout.split())
    for flag in ("--max-batch-tokens", "--max-queue-tokens", "--max-concurrent-requests", "--context-length"):
        assert flag in serve
        assert "INLAY_" + flag.removeprefix("--").replace("-", "_").upper() in serve
    assert run_inlay("--version").stdout.startswith("inlay ")


def test_lines_from_a_pipe_become_jsonl() -> None:
    done = run_inlay("embed", text="first line\nsecond line\n")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [row["row"] for row in rows] == [1, 2]
    with Embedder("demo") as embedder:
        expected = embedder.embed(["first line", "second line"])
    assert np.array_equal(np.array([row["embedding"] for row in rows], dtype=np.float32), expected)


@pytest.mark.parametrize(
    ("name", "content", "arguments"),
    [
        ("a.txt", "one\ntwo\n", []),
        ("a.jsonl", '{"text": "one"}\n{"text": "two"}\n', []),
        ("a.jsonl", '"one"\n"two"\n', []),
        ("a.csv", 'id,body\n1,one\n2,"two"\n', ["--column", "body"]),
        ("a.data", '{"x": "one"}\n{"x": "two"}\n', ["--input-format", "jsonl", "--column", "x"]),
    ],
)
def test_each_format_gives_the_same_array(tmp_path: Path, name: str, content: str, arguments: list[str]) -> None:
    (tmp_path / name).write_text(content)
    done = run_inlay("embed", str(tmp_path / name), "--output", str(tmp_path / "out.npy"), *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    with Embedder("demo") as embedder:
        assert np.array_equal(np.load(tmp_path / "out.npy"), embedder.embed(["one", "two"]))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out.npy"])


def test_bad_rows_are_reported_by_number_and_the_others_are_written(tmp_path: Path) -> None:
    rows = ['{"text": "good"}', "not json", '{"text": ""}', '{"other": 1}', '{"text": 5}', '{"text": "last"}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    done = run_inlay("embed", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "out.npy"))
    assert done.returncode == 1
    for number, problem in ((2, "is not JSON"), (3, "is empty"), (4, "no key 'text'"), (5, "type int")):
        assert any(line.startswith(f"row {number}:") and problem in line for line in done.stderr.splitlines())
    assert "4 rows failed, 2 were embedded" in done.stderr
    assert np.load(tmp_path / "out.npy").shape == (2, 384)
    assert (tmp_path / "out.npy.rows.txt").read_text() == "1\n6\n"


def test_marks_that_excel_writes_and_blank_rows_are_understood(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbftext\r\none\r\n\r\n"two"\r\n')
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf"one"\n' + b"[" * 100_000 + b'\n"two"\n')
    with Embedder("demo") as embedder:
        expected = embedder.embed(["one", "two"])
    for name, bad in (("a.csv", "row 2: has no column"), ("a.txt", ""), ("a.jsonl", "row 2: is not JSON")):
        done = run_inlay("embed", str(tmp_path / name), "--output", str(tmp_path / "out.npy"))
        assert (done.returncode, bad in done.stderr) == (1 if bad else 0, True)
        assert np.array_equal(np.load(tmp_path / "out.npy"), expected)


def test_odd_inputs_and_outputs_are_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"fine\n\xff\xfe\x00")
    (tmp_path / "open.csv").write_text('text\n"never closed\n')
    (tmp_path / "same.jsonl").write_text('"a"\n')
    (tmp_path / "dir.npy").mkdir()
    (tmp_path / "empty.txt").touch()
    for arguments, told in (
        (["open.csv"], "open.csv is broken"),
        (["same.jsonl", "--output", "same.jsonl"], "is the input"),
        (["same.jsonl", "--output", "dir.npy"], "is a directory"),
    ):
        done = run_inlay("embed", *arguments, cwd=tmp_path)
        assert (done.returncode, told in done.stderr, "Traceback" in done.stderr) == (2, True, False)
    piped = subprocess.run(
        [sys.executable, "-m", "inlay", "embed"], input=b"\xff\xfe", capture_output=True, timeout=60, check=False
    )
    assert (piped.returncode, b"row 1: is not UTF-8" in piped.stderr) == (1, True)
    partly = run_inlay("embed", "binary", cwd=tmp_path)
    assert (partly.returncode, "row 2: is not UTF-8" in partly.stderr) == (1, True)
    assert run_inlay("embed", "empty.txt", "--output", "out.npy", cwd=tmp_path).returncode == 0
    assert np.load(tmp_path / "out.npy").shape == (0, 384)


def test_options_come_from_variables_and_from_the_file(tmp_path: Path) -> None:
    tiny = make_checkpoint(tmp_path / "tiny", "qwen3")
    (tmp_path / "inlay.toml").write_text(f'model = "{tiny}"\ndimensions = 33\n')
    done = run_inlay("embed", text="look\n", cwd=tmp_path, INLAY_PROMPT="query")
    assert len(json.loads(done.stdout)["embedding"]) == 33
    with Embedder(str(tiny)) as embedder:
        expected = embedder.embed("look", prompt="query", dimensions=33)
    assert np.array_equal(np.array(json.loads(done.stdout)["embedding"], dtype=np.float32), expected)


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["embed", "/no/such/file"], 2, "cannot be read"),
        (["embed", "-", "--output", "x.parquet"], 2, ".npy or .jsonl"),
        (["embed", "-", "--output", "/no/such/dir/x.npy"], 2, "cannot be written"),
        (["embed", "-", "--input-format", "xml"], 2, "txt, jsonl, csv"),
        (["embed", "-", "--model", "/nowhere"], 1, "not a directory"),
        (["embed", "-", "--prompt", "haiku"], 1, "it has"),
        (["serve", "/nowhere"], 1, "not a directory"),
        (["serve", "demo", "demo"], 2, "--served-model-name"),
        (["serve", "--dtype", "int3"], 2, "float32"),
        (["serve", "--cache", "tape://x"], 2, "memory://"),
        (["serve", "--tp", "2"], 2, "only qwen3 and qwen2"),
        (["serve", "--log-level", "loud"], 2, "debug"),
        (["serve", "--api-key-file", "/nowhere"], 2, "cannot be read"),
        (["serve", "--api-key", ""], 2, "is empty"),
        (["serve", "--shutdown-timeout", "inf"], 2, "--shutdown-timeout"),
        (["serve", "--host", "a..b"], 2, "cannot listen"),
        (["verify", "/nowhere"], 1, "not a directory"),
        (["models", "/nowhere"], 1, "not a directory"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_remedy(arguments: list[str], status: int, told: str) -> None:
    done = run_inlay(*arguments, text="a\n")
    assert (done.returncode, "Traceback" in done.stderr) == (status, False)
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert told in line


def test_an_unknown_column_is_told_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,body\n1,x\n")
    done = run_inlay("embed", str(tmp_path / "a.csv"))
    assert done.returncode == 2
    assert "its columns are: id, body" in done.stderr


def test_verify_passes_for_the_demo_model_with_its_figures() -> None:
    done = run_inlay("verify", "demo", "--dtype", "float32")
    assert done.returncode == 0
    assert "FAIL" not in done.stdout
    for check in ("finite", "alone and in a batch", "any order", "sentence-transformers"):
        assert check in done.stdout


def test_verify_fails_where_a_model_gives_what_its_reference_does_not(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "tiny", "bert")
    program = f"""
import sys, sentence_transformers
original = sentence_transformers.SentenceTransformer.encode
sentence_transformers.SentenceTransformer.encode = lambda self, *a, **k: -original(self, *a, **k)
sys.argv = ["inlay", "verify", {str(path)!r}]
import inlay.__main__ as entry
entry.run()
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "FAIL" in done.stdout


def test_cache_looks_after_the_directory_of_a_disk_tier(tmp_path: Path) -> None:
    url = f"disk://{tmp_path}/cache?size=64MiB"
    for _ in range(2):
        assert run_inlay("embed", "--cache", url, text="one\ntwo\n").returncode == 0
    directory = str(tmp_path / "cache")
    assert run_inlay("cache", "stats", directory).stdout.startswith("2 entries")
    assert "2 records are whole, 0 are not" in run_inlay("cache", "verify", directory).stdout
    assert run_inlay("cache", "rebuild", directory).stdout == "2 entries\n"
    (segment,) = (tmp_path / "cache" / "segments").iterdir()
    with segment.open("r+b") as file:
        file.seek(200)
        file.write(b"xxxx")
    damaged = run_inlay("cache", "verify", directory)
    assert (damaged.returncode, "1 records are whole, 1 are not" in damaged.stdout) == (1, True)
    assert run_inlay("cache", "purge", directory).stdout == "2 entries dropped\n"
    assert run_inlay("cache", "stats", directory).stdout.startswith("0 entries")
    assert run_inlay("cache", "stats", str(tmp_path)).returncode == 2


def test_a_restarted_server_answers_from_its_disk(tmp_path: Path) -> None:
    arguments = ["demo", "--cache", "memory://1MiB", "--cache", f"disk://{tmp_path}/cache"]
    with RunningServer(*arguments, "--shutdown-delay", "0") as first:
        before = first.post({"input": ["kept", "over a restart"]})
        first.stop()
    with RunningServer(*arguments) as second:
        after = second.post({"input": ["kept", "over a restart"]})
    assert [reply.headers["x-inlay-cache"] for reply in (before, after)] == ["miss", "hit"]
    assert before.json()["data"] == after.json()["data"]
    assert after.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 8


def test_models_lists_families_and_shows_checkpoints() -> None:
    assert "qwen3" in run_inlay("models").stdout
    assert "384" in run_inlay("models", "demo").stdout


def test_a_command_line_for_sglang_starts_inlay() -> None:
    arguments = "--model-path demo --served-model-name mini --is-embedding --max-running-requests 64"
    more = "--enable-chunked-prefill --tensor-parallel-size 1 --mem-fraction-static=0.8 --dtype half"
    with RunningServer(*arguments.split(), *more.split()) as server:
        assert server.get("/v1/models").json()["data"][0]["id"] == "mini"
        assert server.post({"input": "a", "model": "mini"}).status_code == 200
        for flag in ("--is-embedding", "--enable-chunked-prefill", "--mem-fraction-static"):
            assert server.output().count(f"{flag} ") == 1


def test_flags_of_sglang_are_translated_or_noted() -> None:
    assert translate(["--model-path", "m", "--port", "1", "--max-running-requests=9"])[0] == [
        "m",
        "--port",
        "1",
        "--max-batch-sequences",
        "9",
    ]
    kept, notes = translate(["--is-embedding", "--chunked-prefill-size", "-1", "--load-format=auto"])
    assert kept == []
    assert len(notes) == 3
    assert translate(["--tp-size", "4", "--dp=2"])[0] == ["--tensor-parallel-size", "4", "--data-parallel-size", "2"]
    assert translate(["--tensor-parallel-size", "4"])[0] == ["--tensor-parallel-size", "4"]
    with pytest.raises(ConfigError, match="needs a value"):
        translate(["--model-path"])


@pytest.mark.skipif(not can_multiply_bytes(), reason="there is no product of bytes")
def test_int8_is_verified_and_its_cosine_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_inlay("verify", "demo", "--dtype", "int8")
    assert (done.returncode, "FAIL" in done.stdout) == (0, False), done.stdout + done.stderr
    given: list[dict[str, object]] = []
    monkeypatch.setattr("inlay.library.embedder.Embedder", lambda model, **arguments: given.append(arguments))
    open_embedder("demo", make_settings({"int8_cosine": 0.97, "dtype": "int8"}))
    assert (given[0]["int8_cosine"], given[0]["dtype"]) == (0.97, "int8")
