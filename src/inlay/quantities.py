"""Sizes and times as people write them: `512MiB`, `30d`."""

from __future__ import annotations

import re

MOST_BYTES = 1 << 60
_SECONDS = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Bytes of `512MiB`, `2GB` or a plain number; ValueError otherwise."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2].upper() not in _UNITS:
        raise ValueError(f"{text!r} is not a size: write 512MiB, 2GB or a number of bytes")
    size = float(found[1]) * _UNITS[found[2].upper()]
    if size >= MOST_BYTES:
        raise ValueError(f"{text[:40]!r} is more than any machine has")
    return int(size)


def parse_duration(text: str) -> float:
    """Seconds of `30d`, `12h`, `10m`, `90s`, `50ms` or a plain number; ValueError otherwise."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|[smhd]?)", text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a time: write 30d, 12h, 10m, 90s, 50ms or a number of seconds")
    return float(found[1]) * _SECONDS[found[2]]
