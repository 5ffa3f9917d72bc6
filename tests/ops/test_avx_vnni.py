"""The build for AVX-VNNI, which few processors have: its code with the same instruction in AVX-512's encoding."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from inlay.ops import native, processor
from inlay.ops.activation import activate
from inlay.ops.int8 import QuantisedWeight, make_quantised_product
from inlay.ops.native import Kernels
from inlay.ops.rows import Form, Rows

SOURCES = Path(processor.__file__).parent / "kernels"
FLAGS = ["-std=c++20", "-O1", "-mavx2", "-mfma", "-mavx512vl", "-mavx512vnni", "-DINLAY_256_BITS", "-fPIC"]

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None or not processor.has_vnni(), reason="needs a compiler and AVX512-VNNI"
)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    folder = tmp_path_factory.mktemp("kernels")

    def compile_one(source: Path) -> str:
        to = str(folder / f"{source.stem}.o")
        subprocess.run(["g++", *FLAGS, "-c", str(source), "-o", to], check=True, capture_output=True)
        return to

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sorted(SOURCES.glob("*.cpp"))))
    subprocess.run(["g++", "-shared", *objects, "-o", str(folder / "kernels.so")], check=True)
    return Kernels("avx2_vnni", ctypes.CDLL(str(folder / "kernels.so")))


@pytest.fixture
def only(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    monkeypatch.setattr(native, "load_kernels", lambda: kernels)
    return kernels


@pytest.mark.parametrize("rows", [1, 5, 6, 7, 100])
@pytest.mark.parametrize(("width_in", "width_out"), [(1024, 400), (4, 1), (96, 33)])
def test_sums_of_bytes_are_exact(only: Kernels, rows: int, width_in: int, width_out: int) -> None:
    torch.manual_seed(0)
    weight = QuantisedWeight(torch.randint(-127, 128, (width_out, width_in), dtype=torch.int8), torch.ones(width_out))
    x = Rows(torch.randint(0, 256, (rows, width_in), dtype=torch.uint8), torch.ones(rows))
    found = make_quantised_product(weight, None, torch.float32)(x).computed().values
    assert torch.equal(found.long(), (x.values.long() - 128) @ weight.values.long().T)


def test_the_rest_is_that_of_avx2(only: Kernels) -> None:
    x = torch.randn(9, 48)
    found = activate(Rows(x), "gelu", Form(torch.float32)).values
    torch.testing.assert_close(found, torch.nn.functional.gelu(x), rtol=0, atol=2e-6)
