"""One Ray cluster for all tests here: starting one takes as long as the tests."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# HAProxy before the replicas, as the docs have it; a replica that goes waits a second for last requests, not thirty.
os.environ |= {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "INLAY_THREADS": "1",  # an engine: Ray is told of more cores than there are
}
CORES = 8  # as far as Ray counts: its readers, writers and actors each want a place, and wait for one for ever
NUM_ROWS = 10_000


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Its address, which programs connect to by the variable RAY_ADDRESS."""
    ray: Any = pytest.importorskip("ray", reason="make test-ray brings it")
    ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with rows."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    texts = [f"row {number} tells of {number * 7919 % 1000} trains and some mice" for number in range(NUM_ROWS)]
    lines = [json.dumps({"id": number, "text": text}) for number, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n")
    return path
