"""`inlay.distributed.ray_data.embed`: each row once, with its vector, also when the run was killed in the middle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from waiting import until

from inlay.errors import ConfigError
from inlay.library.embedder import Embedder

PROGRAM = """
import sys
import ray
from inlay.distributed.ray_data import embed

rows, checkpoint, output = sys.argv[1:]
ray.init(log_to_driver=False)
dataset = ray.data.read_json(rows, override_num_blocks=20)
vectors = embed(dataset, "demo", checkpoint=checkpoint, id="id", dtype="float32", batch_size=250)
vectors.write_parquet(output)
"""


def start(cluster: str, rows: Path, folder: Path) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", PROGRAM, str(rows), str(folder / "checkpoint"), str(folder / "output")]
    quiet = {"env": {**os.environ, "RAY_ADDRESS": cluster}, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(arguments, **quiet)  # type: ignore[call-overload, no-any-return]


def counted(folder: Path) -> set[str]:
    """The blocks that the checkpoint has."""
    return {file.name for file in (folder / "checkpoint").rglob("*.parquet") if ".pending" not in file.name}


def written(folder: Path) -> dict[int, np.ndarray]:
    """Vectors by id, each of which is there once."""
    vectors: dict[int, np.ndarray] = {}
    for file in (folder / "output").glob("*.parquet"):
        table = pyarrow.parquet.read_table(file)
        ids = table["id"].to_pylist()
        assert not vectors.keys() & set(ids)
        values = table["embedding"].to_pylist()
        vectors |= {number: np.array(value, np.float32) for number, value in zip(ids, values, strict=True)}
    return vectors


@pytest.mark.timeout(300)
def test_killed_in_the_middle_and_run_again_every_row_is_there_once_with_its_own_vector(
    cluster: str, rows: Path, tmp_path: Path
) -> None:
    killed = start(cluster, rows, tmp_path)
    until(lambda: len(counted(tmp_path)) >= 3 or killed.poll() is not None, 120)
    killed.kill()
    killed.wait()
    before = counted(tmp_path)
    assert 3 <= len(before) < 15, "it was to be killed in the middle"
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "output").glob("*.parquet")}
    assert start(cluster, rows, tmp_path).wait(200) == 0
    assert before < counted(tmp_path)
    kept = [file for file, time in files.items() if file.exists() and file.stat().st_mtime_ns == time]
    assert len(kept) >= len(before), "what was counted as written is not made again"
    texts = {row["id"]: row["text"] for row in map(json.loads, rows.read_text().splitlines())}
    found = written(tmp_path)
    assert found.keys() == texts.keys()
    with Embedder("demo", dtype="float32", cache="none") as embedder:
        expected = embedder.embed(list(texts.values()))
    assert np.array_equal(np.stack([found[number] for number in texts]), expected)


def test_a_checkpoint_without_an_id_is_refused() -> None:
    from inlay.distributed.ray_data import embed

    with pytest.raises(ConfigError, match="give both"):
        embed(None, checkpoint="somewhere")  # type: ignore[arg-type]
