from __future__ import annotations

import pytest

from inlay.ops import native
from inlay.ops.native import Kernels, runnable_kernels

BUILDS: dict[str, Kernels | None] = {build.name: build for build in runnable_kernels()} | {"torch": None}


@pytest.fixture(params=BUILDS)
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernels | None:
    """Each build of the kernels that this processor runs, and torch's own operators."""
    monkeypatch.setattr(native, "load_kernels", lambda: BUILDS[request.param])
    return BUILDS[request.param]
