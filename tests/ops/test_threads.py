"""How many threads compute, and that a pool of any size gives the bits of one thread."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from inlay import thread_count
from inlay.errors import ConfigError
from inlay.ops.linear import Weights, make_product
from inlay.ops.native import load_kernels
from inlay.ops.processor import has_amx
from inlay.ops.rows import Rows
from inlay.ops.threads import torch_on_one_thread
from inlay.thread_count import choose_threads, cpu_quota, take_share

needs_kernels = pytest.mark.skipif(load_kernels() is None, reason="no kernels for this processor")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INLAY_THREADS", raising=False)
    choose_threads.cache_clear()


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)


def own(tmp_path: Path, lines: str) -> Path:
    file = tmp_path / "own"
    file.write_text(lines)
    return file


def test_a_quota_of_version_2_is_that_of_the_own_group(tmp_path: Path) -> None:
    group(tmp_path / "pods" / "one", cpu__max="150000 100000\n")
    assert cpu_quota(tmp_path, own(tmp_path, "0::/pods/one\n")) == 1.5


def test_the_least_quota_of_a_group_and_those_above_it_counts(tmp_path: Path) -> None:
    group(tmp_path / "pods" / "one", cpu__max="400000 100000")
    group(tmp_path / "pods", cpu__max="200000 100000")
    group(tmp_path, cpu__max="max 100000")
    assert cpu_quota(tmp_path, own(tmp_path, "0::/pods/one\n")) == 2


def test_a_quota_of_version_1_is_that_of_the_group_of_its_controller(tmp_path: Path) -> None:
    group(tmp_path / "cpu,cpuacct" / "box", cpu__cfs_quota_us="50000\n", cpu__cfs_period_us="100000\n")
    lines = "4:memory:/box\n3:cpuset:/\n2:cpu,cpuacct:/box\n0::/\n"
    assert cpu_quota(tmp_path, own(tmp_path, lines)) == 0.5


def test_in_a_container_the_path_may_be_the_hosts_and_the_root_the_own_group(tmp_path: Path) -> None:
    group(tmp_path, cpu__max="100000 100000")
    assert cpu_quota(tmp_path, own(tmp_path, "0::/system.slice/docker-123.scope\n")) == 1


@pytest.mark.parametrize("content", ["max 100000", "", "nonsense", "100000 0"])
def test_without_a_quota_there_is_none(tmp_path: Path, content: str) -> None:
    group(tmp_path, cpu__max=content)
    assert cpu_quota(tmp_path, own(tmp_path, "0::/\n")) is None
    assert cpu_quota(tmp_path, tmp_path / "missing") is None
    assert cpu_quota(tmp_path, own(tmp_path, "nonsense\n")) is None


@pytest.mark.parametrize(("quota", "count"), [(0.5, 1), (1.0, 1), (2.9, 2), (64.0, 4), (None, 4)])
def test_threads_are_the_processors_that_may_be_kept_busy(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(4)))
    monkeypatch.setattr("inlay.thread_count.cpu_quota", lambda: quota)
    threads = choose_threads()
    assert threads.count == count
    assert ("control group" in threads.reason) == (quota is not None and quota < 4)


def test_the_variable_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INLAY_THREADS", "7")
    assert choose_threads().count == 7


@pytest.mark.parametrize("asked", ["0", "-1", "two", "1.5", "100000", "9" * 5000])
def test_a_number_of_threads_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("INLAY_THREADS", asked)
    with pytest.raises(ConfigError, match=f"INLAY_THREADS={asked}: use a whole number"):
        choose_threads()


def test_torch_runs_on_one_thread_here_and_nowhere_else() -> None:
    torch.set_num_threads(2)
    elsewhere: list[int] = []
    with torch_on_one_thread():
        assert torch.get_num_threads() == 1
        thread = threading.Thread(target=lambda: elsewhere.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    assert (torch.get_num_threads(), elsewhere) == (2, [2])


def product_and_input(seed: int) -> tuple[Callable[[], torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(384, 96, generator=generator), torch.randn(203, 96, generator=generator)
    product = make_product(Weights((weight,)))
    return lambda: product(Rows(x)).full(), x @ weight.T


@needs_kernels
def test_callers_at_the_same_time_share_the_pool_and_each_gets_its_own_rows() -> None:
    failures: list[int] = []

    def call(seed: int) -> None:
        run, expected = product_and_input(seed)
        first = run()
        torch.testing.assert_close(first, expected, rtol=0, atol=1e-4)
        failures.extend(seed for _ in range(200) if not torch.equal(run(), first))

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(20)]  # more than the pool has places
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert failures == []


PRINT_BITS = """
import hashlib, sys, torch
from inlay.ops import native
from inlay.ops.embedding import look_up, mean_of_rows
from inlay.ops.layout import Layout
from inlay.ops.attention import attention
from inlay.ops.linear import Weights, make_product
from inlay.ops.native import Kernels, load_kernels
from inlay.ops.rows import Rows
import ctypes, numpy as np
kernels = load_kernels()
if "torch" in sys.argv:
    library = ctypes.CDLL(native.find_spec(f"inlay.ops._kernels_{kernels.name}").origin)
    native.load_kernels = lambda: other
    other = Kernels(kernels.name, library, on_torch_threads=True)
torch.manual_seed(0)
x = torch.randn(300, 64)
layout = Layout.of(np.array([0, 7, 100, 300]), torch.device("cpu"))
hidden = make_product(Weights((torch.randn(500, 64),)))(Rows(x)).full()
q = torch.randn(300, 4, 32)
mixed = attention(q, q, q, layout, layout, is_causal=True)
means = mean_of_rows(hidden.contiguous(), layout)
rows = look_up((x, torch.arange(300)), (x, None))
load_kernels().release_memory()
again = attention(q, q, q, layout, layout, is_causal=True)
def bits():
    return [t.numpy().tobytes() for t in (hidden, mixed, means, rows, again)]
print(hashlib.sha256(b"".join(bits())).hexdigest())
if "fork" in sys.argv:
    import os
    if os.fork() == 0:
        same = torch.equal(attention(q, q, q, layout, layout, is_causal=True), mixed)
        os._exit(0 if same else 1)
    print(os.wait()[1])
"""


def bits_of(threads: int, *arguments: str) -> list[str]:
    command = [sys.executable, "-c", PRINT_BITS, *arguments]
    environment = {**os.environ, "INLAY_THREADS": str(threads)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()


@needs_kernels
def test_any_number_of_threads_gives_the_same_bits_torchs_own_too() -> None:
    alone = bits_of(1)
    assert bits_of(5) == alone
    assert bits_of(3, "torch") == alone


@needs_kernels
@pytest.mark.skipif(has_amx(), reason="with AMX torch's own threads compute, which do not outlive a fork")
def test_a_forked_process_computes_on() -> None:
    assert bits_of(3, "fork")[1] == "0"


def test_engines_side_by_side_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[set[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(7)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, share: shares.append(set(share)))
    monkeypatch.setattr(thread_count, "cpu_quota", lambda: None)
    counts = []
    for number in range(3):
        choose_threads.cache_clear()
        take_share(number, 3)
        counts.append(choose_threads().count)
        take_share(number, 3)  # for the next model, which changes nothing
        monkeypatch.delenv("INLAY_THREADS")
    assert counts == [len(share) for share in shares] == [2, 2, 3]
    assert set.union(*shares) == set(range(7))
    choose_threads.cache_clear()
    with pytest.raises(ConfigError, match="8 engines on a processor need 8 processors, and there are 7"):
        take_share(0, 8)
    choose_threads.cache_clear()


def test_with_a_quota_the_share_is_of_it_and_the_system_places_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, share: pytest.fail("not here"))
    monkeypatch.setattr(thread_count, "cpu_quota", lambda: 4.0)
    take_share(1, 2)
    assert choose_threads().count == 2
    monkeypatch.delenv("INLAY_THREADS")
    choose_threads.cache_clear()
