"""A model that several processes share gives what one gives; one that ends is said, and none outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import text_of
from children import children_of, is_running
from command import run_inlay
from servers import RunningServer

from inlay import ConfigError, DeviceLost, Embedder, InlayError
from inlay.engine.shards import ShardGroup, meet
from inlay.models.sharding import Shard
from inlay.models.spec import read_spec

TEXTS = [text_of(length, length) for length in (1, 4, 60, 300, 7, 7)]
Checkpoint = Callable[[str], Path]


@pytest.fixture(scope="module")
def shared(checkpoint: Checkpoint) -> Iterator[Embedder]:
    with Embedder(str(checkpoint("qwen3")), dtype="float32", cache="none", tensor_parallel_size=2) as embedder:
        yield embedder


def ranks_of(process: int) -> list[int]:
    """Those that it has started and that run."""
    return [number for number, line in children_of(process).items() if "shard_process" in line]


def wait_for_end(process: int) -> None:
    end = time.monotonic() + 30
    while is_running(process) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_running(process)


@pytest.mark.parametrize("name", ["qwen3", "qwen2"])
def test_two_processes_give_what_one_gives(checkpoint: Checkpoint, name: str) -> None:
    with Embedder(str(checkpoint(name)), dtype="float32", cache="none") as alone:
        expected = alone.embed(TEXTS)
        fingerprint = alone.spec.fingerprint
    with Embedder(str(checkpoint(name)), dtype="float32", cache="none", tensor_parallel_size=2) as both:
        found = both.embed(TEXTS)
        assert both.spec.fingerprint != fingerprint  # the last bits are not the same
    assert np.linalg.norm(found - expected, axis=1).max() <= 1.3e-6  # of unit vectors


def test_each_process_holds_its_part(checkpoint: Checkpoint) -> None:
    spec = read_spec(checkpoint("qwen3"), "m")
    whole, parts = spec.config, [Shard(rank, 2) for rank in (0, 1)]
    assert [part.config_of(spec)["intermediate_size"] for part in parts] == [whole["intermediate_size"] // 2] * 2
    weight = torch.arange(24.0).view(4, 6)
    for name, dimension in (("layers.0.self_attn.q_proj.weight", 0), ("layers.0.mlp.down_proj.weight", 1)):
        assert torch.equal(torch.cat([part.cut(name, weight) for part in parts], dimension), weight)
    assert parts[1].cut("embed_tokens.weight", weight) is weight


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("qwen3", {"tensor_parallel_size": 3}, "3 does not divide num_attention_heads=8"),
        ("bert", {"tensor_parallel_size": 2}, "models of type 'bert' are not divided"),
        ("qwen3", {"tensor_parallel_size": 2, "dtype": "int8"}, "is not for int8: use --dtype bfloat16"),
        ("qwen3", {"data_parallel_size": 2}, "is for GPUs, and the device is cpu"),
    ],
)
def test_what_cannot_be_shared_is_refused_with_the_remedy(
    checkpoint: Checkpoint, family: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Embedder(str(checkpoint(family)), device="cpu", **arguments)  # type: ignore[arg-type]
    assert not ranks_of(os.getpid())


def test_a_process_that_fails_to_start_ends_the_others(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INLAY_THREADS", "none")  # which only a process that is new reads
    from inlay import thread_count

    monkeypatch.setattr(thread_count, "THREADS_VARIABLE", "UNSET_HERE")
    with pytest.raises(InlayError, match="did not start"):
        Embedder(str(checkpoint("qwen3")), dtype="float32", tensor_parallel_size=2)
    assert not ranks_of(os.getpid())


def test_closing_ends_the_processes(checkpoint: Checkpoint) -> None:
    with Embedder(str(checkpoint("qwen3")), dtype="float32", cache="none", tensor_parallel_size=2) as embedder:
        ranks = ranks_of(os.getpid())
        embedder.embed(TEXTS)
    assert len(ranks) >= 1
    assert not any(is_running(rank) for rank in ranks if rank not in ranks_of(os.getpid()))


def test_a_process_that_ends_is_told_to_whoever_waits(checkpoint: Checkpoint) -> None:
    others = set(ranks_of(os.getpid()))
    with Embedder(str(checkpoint("qwen3")), dtype="float32", cache="none", tensor_parallel_size=2) as embedder:
        (rank,) = set(ranks_of(os.getpid())) - others
        assert embedder._runtime.worker.health() is None
        os.kill(rank, signal.SIGKILL)
        end = time.monotonic() + 30
        while embedder._runtime.worker.health() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert "has ended" in str(embedder._runtime.worker.health())  # before anybody asks for anything
        with pytest.raises(DeviceLost, match="restart the server"):
            embedder.embed(TEXTS)
        with pytest.raises(DeviceLost, match="restart the server"):
            embedder.embed(TEXTS[:1])


def test_no_process_outlives_its_parent(checkpoint: Checkpoint) -> None:
    code = (
        "import sys, time\nfrom inlay import Embedder\n"
        f"embedder = Embedder({str(checkpoint('qwen3'))!r}, dtype='float32', tensor_parallel_size=2)\n"
        "print('loaded', flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().strip() == "loaded"
        (rank,) = ranks_of(parent.pid)
        parent.kill()
    wait_for_end(rank)


def test_many_batches_stay_in_step(shared: Embedder) -> None:
    first = shared.embed(TEXTS)
    for size in (1, 2, 5):
        assert np.abs(shared.embed(TEXTS[:size]) - first[:size]).max() <= 1e-6


@pytest.mark.gpu
def test_nccl_sums_on_a_gpu() -> None:
    group = ShardGroup(Shard(0, 1), meet(0, 1), torch.device("cuda:0"))
    with torch.inference_mode():
        values = torch.ones(3, 4, device="cuda", dtype=torch.bfloat16)
        group.sum(values)
        assert values.sum().item() == 12
    group.lose()
    with pytest.raises(DeviceLost):
        group.check()


def test_a_server_takes_the_flag_and_ends_with_its_processes(checkpoint: Checkpoint) -> None:
    with RunningServer(str(checkpoint("qwen3")), "--dtype=float32", "--tensor-parallel-size=2") as server:
        (engine,) = children_of(server.process.pid)
        (rank,) = ranks_of(engine)
        assert server.post({"input": "hello world"}).status_code == 200
    wait_for_end(rank)


def test_the_verbs_pass_on_what_the_engine_is_asked_for(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("hello world\n")
    for flags, why in (
        (["--tensor-parallel-size", "3"], "does not divide"),
        (["--data-parallel-size", "2"], "for GPUs"),
    ):
        model = ["--model", str(checkpoint("qwen3")), "--device", "cpu"]
        done = run_inlay("embed", str(tmp_path / "texts.txt"), *model, *flags)
        assert (done.returncode, why in done.stderr) == (2, True), done.stderr
