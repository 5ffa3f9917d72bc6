"""Puts two results side by side: the ratio of each figure that both have.

In: two files that hold the last line of a bench. Out: a record for each row that stands in both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inlay.errors import ConfigError

NAMES = ("row", "connections", "rate")  # what tells a result's rows apart
UNCOMPARED = ("commit", "url")  # of a card: what two results are made to differ in
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
    if not all(isinstance(row, dict) and any(key in row for key in NAMES) for row in result["rows"]):
        raise ConfigError(f"{file} ends with JSON that is not a bench's: its rows have none of {', '.join(NAMES)}")
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
        ratios = {key: round(row[key] / other[key], 3) for key in FIGURES if _is_figure(row, key, other)}
        if ratios:
            compared.append({"row": name_of(row), **ratios})
    if not compared:
        raise ConfigError("the two results have no row in common")
    return compared


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """What the cards of two results say that is not the same: a ratio may come from there."""
    cards = [{"bench": result.get("bench"), **(result.get("card") or {})} for result in (first, second)]
    keys = dict.fromkeys(key for card in cards for key in card if key not in UNCOMPARED)
    return [
        f"{key} is {one!r} and {other!r}" for key in keys if (one := cards[0].get(key)) != (other := cards[1].get(key))
    ]


def _is_figure(row: dict[str, Any], key: str, other: dict[str, Any]) -> bool:
    return all(isinstance(one.get(key), int | float) and one[key] for one in (row, other))
