"""What the image and compose say of the server is what the server takes; `make test-image` runs the image."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import yaml

from inlay.config import ENV_PREFIX, OPTIONS, SERVE, flag_of, meta_of

ROOT = Path(__file__).resolve().parents[2]
SERVED = [name for name in OPTIONS if SERVE in (meta_of(name).extra or {})["verbs"]]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_compose_starts_the_server_with_options_that_it_has() -> None:
    command = COMPOSE["services"]["inlay"]["command"]
    assert command[0] == SERVE
    flags = {part for part in command if part.startswith("--")}
    assert flags
    assert flags <= {flag_of(name) for name in SERVED}
    from inlay.cache.urls import make_cache

    tiers = [value for flag, value in pairwise(command) if flag == "--cache"]
    assert [tier.name for tier in make_cache(tiers).tiers] == ["memory", "redis"]


def test_what_compose_gives_its_services_is_there() -> None:
    for service in COMPOSE["services"].values():
        for source in (volume.split(":")[0] for volume in service.get("volumes", ())):
            assert source in COMPOSE["volumes"] or (ROOT / source).exists(), source
        assert service["cap_drop"] == ["ALL"]
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), "nothing is open to the network unasked"


def test_variables_of_the_image_are_options_of_the_server() -> None:
    named = re.findall(rf"\b{ENV_PREFIX}(\w+)=", (ROOT / "Dockerfile").read_text())
    assert named
    assert {name.lower() for name in named} <= {*SERVED}


def test_prometheus_is_told_where_the_server_is() -> None:
    (job,) = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yaml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["inlay:8000"]}]
    assert "inlay" in COMPOSE["services"]
