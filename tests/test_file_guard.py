"""Files that are changed while they are served: no wrong vector, and no process that ends."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
from corpus.sources import write_rows
from servers import RunningServer

from inlay.file_guard import FileGuard


def test_a_change_in_place_is_noticed_and_a_replacement_is_none(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x" * 100)
    guard = FileGuard([file])
    assert (guard.changed(), guard.shortened()) == (None, None)
    (tmp_path / "b").write_bytes(b"y" * 50)
    (tmp_path / "b").replace(file)
    assert (guard.changed(), guard.shortened()) == (None, None)
    guard = FileGuard([file])
    with file.open("r+b") as opened:
        opened.write(b"z")
    os.utime(file, ns=(1, 1))
    assert (guard.changed(), guard.shortened()) == (file, None)
    os.truncate(file, 10)
    assert guard.shortened() == file


def test_weights_that_are_changed_or_cut_under_a_server_are_refused(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    for change in ("written", "cut"):
        path = tmp_path / change
        shutil.copytree(checkpoint("qwen3"), path)
        with RunningServer(str(path), "--dtype", "float32") as server:
            assert server.post({"input": "before"}).status_code == 200
            file = path / "model.safetensors"
            if change == "cut":
                os.truncate(file, 4096)
            else:
                with file.open("r+b") as opened:
                    opened.seek(file.stat().st_size // 2)
                    opened.write(b"other weights")
            refused = server.post({"input": "after"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_changed")
            assert server.post({"input": "before"}).status_code == 200, "what the cache has is still right"
            health = server.get("/health")
            assert health.status_code == 503
            assert "restart the server" in health.json()["reason"]


def test_a_corpus_that_is_cut_under_a_server_is_refused(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "a.jsonl", [{"text": f"row number {n}"} for n in range(3000)])
    command = [sys.executable, "-m", "inlay", "precompute", str(rows), "-o", str(tmp_path / "c")]
    subprocess.run(command, check=True, capture_output=True)
    with RunningServer("demo", "--corpus", f"c={tmp_path / 'c'}") as server:

        def search() -> httpx.Response:
            return httpx.post(f"{server.url}/v1/search", json={"query": "row number 7"}, timeout=60)

        assert len(search().json()["data"]) == 10
        part = tmp_path / "c" / "part-0001"
        for name in ("records.jsonl", "scales.npy"):
            os.truncate(part / name, 200)
            assert search().status_code == 200
        os.truncate(part / "vectors.npy", 4096)
        refused = search()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "corpus_damaged")
        for name in ("rows.npy", "short_keys.npy"):
            os.truncate(part / name, 200)
        reply = server.post({"input": [f"row number {n}" for n in range(20)]})
        assert reply.status_code == 200
        assert len(json.loads(reply.content)["data"]) == 20
        assert server.get("/health").status_code == 200
