"""Puts two results side by side: the ratio of each figure that both have.

In: two files that hold the last line of a bench. Out: a record for each row that stands in both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inlay.errors import ConfigError

NAMES = ("row", "connections", "rate")  # what tells a result's rows apart
FIGURES = ("tokens_per_s", "texts_per_s", "of_ceiling", "qps", "latency_ms", "p50_ms", "p95_ms", "p99_ms")


def read_result(file: Path) -> dict[str, Any]:
    """The JSON object on the last line of a file; `ConfigError` when there is none."""
    try:
        lines = [line for line in file.read_text().splitlines() if line.strip()]
        result = json.loads(lines[-1])
    except (OSError, UnicodeDecodeError, IndexError, json.JSONDecodeError) as error:
        raise ConfigError(f"{file} does not end with the JSON line of a bench: {error}") from error
    if not isinstance(result, dict) or not isinstance(result.get("rows"), list):
        raise ConfigError(f"{file} ends with JSON that is not a bench's: it has no rows")
    return result


def name_of(row: dict[str, Any]) -> str:
    """What a row is called in tables and plots."""
    key = next(key for key in NAMES if key in row)
    return str(row[key]) if key == "row" else f"{row[key]} {key}"


def compare(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    """First ÷ second for each figure of each row that both have."""
    others = {name_of(row): row for row in second["rows"]}
    compared = []
    for row in first["rows"]:
        other = others.get(name_of(row), {})
        ratios = {key: round(row[key] / other[key], 3) for key in FIGURES if row.get(key) and other.get(key)}
        if ratios:
            compared.append({"row": name_of(row), **ratios})
    if not compared:
        raise ConfigError("the two results have no row in common")
    return compared
