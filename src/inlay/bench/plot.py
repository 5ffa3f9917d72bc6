"""Draws latency against throughput, one line a batch size or one for a server's sweep."""

from __future__ import annotations

import io
from collections import defaultdict
from pathlib import Path
from typing import Any

from inlay.bench.compare import name_of
from inlay.errors import ConfigError

SUFFIXES = (".png", ".html")
PAGE = '<!doctype html><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>{drawing}'


def check_plot(file: Path | None) -> None:
    """Refuse before the measuring what could not be drawn after it."""
    if file is None:
        return
    if file.suffix not in SUFFIXES:
        raise ConfigError(f"--plot {file}: the name must end in {' or '.join(SUFFIXES)}")
    if not file.parent.is_dir() or file.is_dir():
        raise ConfigError(f"--plot {file}: there is no folder {file.parent} to write it into")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError("--plot needs matplotlib: install it beside Inlay (pip install matplotlib)") from error


def plot(file: Path, title: str, rows: list[dict[str, Any]]) -> None:
    """Write a drawing of the rows that have both figures; `ConfigError` where it cannot be written."""
    try:
        _draw(file, title, rows)
    except OSError as error:
        raise ConfigError(f"--plot {file} cannot be written: {error.strerror}") from error


def _draw(file: Path, title: str, rows: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for label, points in _lines(rows).items():
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], marker="o", label=label)
        for x, y, name in points:
            axes.annotate(name, (x, y), textcoords="offset points", xytext=(5, 5), fontsize=7)
    axes.set(xlabel="tokens per second", ylabel="latency, ms", yscale="log", title=title)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    if file.suffix == ".png":
        figure.savefig(file, dpi=120)
        return
    drawing = io.StringIO()
    figure.savefig(drawing, format="svg")
    svg = drawing.getvalue()
    file.write_text(PAGE.format(title=title, drawing=svg[svg.index("<svg") :]))


def _lines(rows: list[dict[str, Any]]) -> dict[str, list[tuple[float, float, str]]]:
    lines: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for row in rows:
        throughput, latency = row.get("tokens_per_s"), row.get("latency_ms", row.get("p50_ms"))
        if throughput and latency:
            batch, by, _ = str(row.get("row", "")).partition("x")
            label = f"batches of {batch}" if by else ("mixed lengths" if "row" in row else "median")
            lines[label].append((throughput, latency, name_of(row)))
    return lines
