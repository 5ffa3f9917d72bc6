"""The kernels, once for each kind of processor; everything else is said in pyproject.toml.

They are optional: where they cannot be compiled, Inlay runs on torch's own operators, and says so.
"""

from glob import glob

from setuptools import Extension, setup

AVX2 = ["-mavx2", "-mfma"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]
BUILDS = {"avx2": AVX2, "avx512": AVX512, "avx512_bf16": [*AVX512, "-mavx512vnni", "-mavx512bf16"]}
COMMON = ["-std=c++20", "-O3", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]

setup(
    ext_modules=[
        Extension(
            f"inlay.ops._kernels_{name}",
            sorted(glob("src/inlay/ops/kernels/*.cpp")),
            depends=sorted(glob("src/inlay/ops/kernels/*.h")),
            extra_compile_args=[*COMMON, *flags],
            language="c++",
            optional=True,
        )
        for name, flags in BUILDS.items()
    ]
)
