"""Reads custom resources (JSON) as their definitions have them, and prints what was lost on the way.

Runs in an environment of its own, with `cloudcoil.models.keda` and `cloudcoil.models.prometheus_operator`, whose types
are made from the definitions. They drop what they do not know without a word, so what comes out is compared with what
went in.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as monitoring

TYPES = {
    "ScaledObject": keda.ScaledObject,
    "ServiceMonitor": monitoring.ServiceMonitor,
    "PrometheusRule": monitoring.PrometheusRule,
}


def lost(given: Any, read: Any, path: str = "") -> Iterator[str]:
    """Where something is not what it was."""
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            yield from lost(value, read[key], f"{path}.{key}") if key in read else [f"{path}.{key}"]
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for place, (value, other) in enumerate(zip(given, read, strict=True)):
            yield from lost(value, other, f"{path}[{place}]")
    elif given != read:
        yield f"{path}: {given!r} became {read!r}"


if __name__ == "__main__":
    for resource in json.load(sys.stdin):
        model = TYPES[resource["kind"]].model_validate(resource)
        for one in lost(resource, model.model_dump(by_alias=True, exclude_none=True, mode="json")):
            print(resource["kind"] + one)
