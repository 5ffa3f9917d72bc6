from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command import run_inlay

from inlay import Embedder
from inlay.bench.ceiling import Ceiling, Products, computed_dtypes, product_sizes
from inlay.bench.engine import default_rows, parse_row
from inlay.bench.shapes import SHAPES, make_checkpoint, shape_config
from inlay.errors import ConfigError
from inlay.models.registry import forward_class
from inlay.models.spec import read_spec

PARAMETERS = {  # as published
    "qwen3-embedding-0.6b": 595_776_512,
    "qwen3-embedding-4b": 4_021_774_336,
    "qwen3-embedding-8b": 7_567_295_488,
}


@pytest.mark.parametrize("shape", PARAMETERS)
def test_a_shape_has_as_many_parameters_as_the_published_model(shape: str) -> None:
    with torch.device("meta"):
        model = forward_class("qwen3")(shape_config(shape), torch.bfloat16)
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == PARAMETERS[shape]


@pytest.mark.parametrize("shape", ["minilm", "qwen3-embedding-0.6b", "bge-m3"])
def test_a_made_checkpoint_loads_and_embeds(tmp_path: Path, shape: str) -> None:
    config = {**SHAPES[shape], "num_hidden_layers": 1, "vocab_size": 300}
    make_checkpoint(tmp_path, config, ["some", "words"])
    with Embedder(str(tmp_path), context_length=64) as embedder:
        vectors = embedder.embed(["some words", "words some"])
    assert vectors.shape == (2, config["hidden_size"])
    assert not (vectors[0] == vectors[1]).all()


def test_weights_over_a_shard_go_into_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inlay.bench.shapes.SHARD", 1 << 20)
    config = {**SHAPES["minilm"], "num_hidden_layers": 2, "vocab_size": 300}
    written = make_checkpoint(tmp_path, config)
    files = list(tmp_path.glob("*.safetensors"))
    assert len(files) > 1
    assert written < sum(file.stat().st_size for file in files) < written + 100_000


def test_a_shape_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"use qwen3-embedding-0\.6b, .*minilm"):
        shape_config("gpt-5")


def test_rows_are_batches_by_lengths() -> None:
    assert parse_row("3x17").lengths == (17, 17, 17)
    mixed = parse_row("mixed")
    assert (min(mixed.lengths), max(mixed.lengths)) == (16, 256)
    assert list(mixed.lengths) != sorted(mixed.lengths)
    assert max(max(row.lengths) for row in default_rows(256)) == 256
    for wrong in ("8", "x", "0x5", "8x-1", "8x1.5", ""):
        with pytest.raises(ConfigError, match="BATCHxLENGTH"):
            parse_row(wrong)


def test_the_ceiling_counts_every_product_of_the_model(demo_path: Path) -> None:
    sizes = product_sizes(read_spec(demo_path, "demo"))
    assert sizes == {(384, 384): 24, (384, 1536): 6, (1536, 384): 6}
    for dtype in computed_dtypes("cpu"):  # of what the processor has
        assert Products({(64, 64): 1}, dtype, "cpu").tokens_per_second(16) > 0
    with Ceiling({(64, 64): 1}, "float32", "cpu") as ceiling:
        assert ceiling.tokens_per_second(16) > 0


def test_what_the_processor_does_not_compute_in_has_no_ceiling_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INLAY_MAX_CPU_ISA", "avx2")
    assert computed_dtypes("cpu") == ("float32",)
    assert computed_dtypes("cuda") == ("bfloat16", "float32")
    with Ceiling({(64, 64): 1}, "bfloat16", "cpu") as ceiling:
        assert ceiling.tokens_per_second(16) > 0


MEASURING = """
from inlay.bench.ceiling import Ceiling
ceiling = Ceiling({(4096, 4096): 1}, "float32", "cpu")
print(ceiling._process.pid, flush=True)
ceiling.tokens_per_second(60_000)
"""


def test_a_ceiling_ends_with_the_process_that_asked_for_it() -> None:
    """Killed while a product runs, which takes longer than the test waits."""
    program = "if __name__ == '__main__':\n" + textwrap.indent(MEASURING, "    ")
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(program)
        file.flush()
        with subprocess.Popen([sys.executable, file.name], stdout=subprocess.PIPE, text=True) as asking:
            assert asking.stdout is not None
            measuring = int(asking.stdout.readline())
            wait_until(lambda: rss_bytes(measuring) > 1 << 30)  # its rows are made: it computes, or is about to
            asking.kill()
        wait_until(lambda: rss_bytes(measuring) == 0, seconds=4)


def rss_bytes(pid: int) -> int:
    """0 for a process that has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmRSS:\s+(\d+)", status)
    return int(found[1]) * 1024 if found else 0


def wait_until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def test_bench_engine_prints_a_card_a_table_and_json_last(tmp_path: Path) -> None:
    drawing = tmp_path / "plot.png"
    arguments = ["--rows", "1x16,2x8,mixed,1x512", "--seconds", "0", "--longest", "100000", "--plot", str(drawing)]
    done = run_inlay("bench", "engine", "demo", *arguments)
    assert done.returncode == 0, done.stderr
    assert "processor" in done.stdout
    result = json.loads(done.stdout.splitlines()[-1])
    rows = {row["row"]: row for row in result["rows"]}
    assert rows["1x16"]["runs"] == 3
    assert rows["2x8"]["of_ceiling"] > 0
    assert rows["mixed"]["tokens_per_s"] > 0
    assert rows["1x512"]["skipped"] == "the model takes 256 tokens"
    assert result["memory_gib"]["idle"] < result["memory_gib"]["loaded"] <= result["memory_gib"]["peak"]
    assert 0 < result["start_seconds"]["load"] < result["start_seconds"]["ready"]
    assert drawing.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give either a model or --shape"),
        (["demo", "--shape", "minilm"], "give either a model or --shape"),
        (["--shape", "mini"], "there is no such shape"),
        (["demo", "--rows", "8by8"], "BATCHxLENGTH"),
        (["demo", "--rows", "²x16"], "BATCHxLENGTH"),
        (["demo", "--rows", ""], "BATCHxLENGTH"),
        (["demo", "--plot", "no/such/folder/figure.png"], "there is no folder"),
        (["demo", "--plot", "figure.pdf"], "must end in .png or .html"),
    ],
)
def test_bench_engine_says_what_is_wrong(arguments: list[str], says: str) -> None:
    done = run_inlay("bench", "engine", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
