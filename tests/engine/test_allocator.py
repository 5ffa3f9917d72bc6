from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from inlay.engine.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(50):
        blocks = [bytearray(8 << 20) for _ in range(6)]
        del blocks
work()
before = faults()
work()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again_without_new_pages() -> None:
    def faults(mode: str) -> int:
        done = subprocess.run([sys.executable, "-c", FAULTS, mode], check=True, capture_output=True, text=True)
        return int(done.stdout)

    assert faults("keep") < 1000 < faults("leave")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a function of glibc")
def test_what_loading_leaves_over_goes_back_to_the_kernel() -> None:
    script = """
from inlay.bench.process import resident_bytes
from inlay.engine.allocator import give_back_freed_memory, keep_freed_memory
keep_freed_memory()
blocks = [bytearray(b"x") * (1 << 20) for _ in range(100)]
last = bytearray(b"x") * (1 << 20)  # above the others, so that nothing goes back by itself
del blocks
before = resident_bytes()
assert give_back_freed_memory()
print(before - resident_bytes())
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert int(done.stdout) > 90 << 20
