"""The kernels, once for each kind of processor; everything else is said in pyproject.toml.

They are optional: where they cannot be compiled, Inlay runs on torch's own operators, and says so. None of them is a
module of Python's, so one wheel serves all its versions. For another machine than this one, set `CXX` and
`_PYTHON_HOST_PLATFORM`, as for any package.
"""

from __future__ import annotations

import copy
import os
from glob import glob

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

AVX2 = ["-mavx2", "-mfma"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]
NEON = "-march=armv8.2-a+dotprod"
X86_BUILDS = {
    "avx2": AVX2,
    "avx2_vnni": [*AVX2, "-mavxvnni"],
    "avx512": AVX512,
    "avx512_vnni": [*AVX512, "-mavx512vnni"],
    "avx512_bf16": [*AVX512, "-mavx512vnni", "-mavx512bf16"],
}
ARM_BUILDS = {"neon": [NEON], "neon_i8mm": [f"{NEON}+i8mm"], "neon_bf16": [f"{NEON}+i8mm+bf16"]}
COMMON = ["-std=c++20", "-O3", "-g0", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]


class BuildLibraries(build_ext):
    """Libraries without Python's own suffix, side by side."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extension(self, extension: Extension) -> None:
        own = copy.copy(self)  # several are built at the same time, from the same sources
        own.build_temp = os.path.join(self.build_temp, extension.name)
        super(BuildLibraries, own).build_extension(extension)

    def get_ext_filename(self, name: str) -> str:
        return os.path.join(*name.split(".")) + ".so"

    def get_export_symbols(self, extension: Extension) -> list[str]:
        return []


class AnyPythonWheel(bdist_wheel):
    """Of this platform, for any version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


def machine() -> str:
    platform = os.environ.get("_PYTHON_HOST_PLATFORM", "")
    return platform.rpartition("-")[2] or os.uname().machine


def library(name: str, sources: str, flags: list[str]) -> Extension:
    return Extension(
        f"inlay.ops._{name}",
        sorted(glob(f"src/inlay/ops/{sources}/*.cpp")),
        depends=sorted(glob(f"src/inlay/ops/{sources}/*.h")),
        extra_compile_args=[*COMMON, *flags],
        language="c++",
        optional=True,
    )


builds = {"x86_64": X86_BUILDS, "aarch64": ARM_BUILDS, "arm64": ARM_BUILDS}.get(machine(), {})
setup(
    ext_modules=[
        library("processor", "detection", []),
        *(library(f"kernels_{name}", "kernels", flags) for name, flags in builds.items()),
    ],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": AnyPythonWheel},
)
