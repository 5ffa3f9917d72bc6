"""Draws quality against speed: a point for each candidate, as large as the memory that it took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inlay.errors import ConfigError

LARGEST = 600.0  # points² of the largest


def draw(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write a drawing, a panel for each metric; `ConfigError` where it cannot be."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("--plot needs matplotlib: pip install 'inlay[bench]'") from error
    metrics = list(rows[0]["scores"])
    figure = Figure(figsize=(6 * len(metrics), 5), layout="constrained")
    most = max(row["peak_bytes"] for row in rows)
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for row in rows:
            x, y = row["tokens_per_s"], row["scores"][metric]
            axes.scatter([x], [y], s=LARGEST * row["peak_bytes"] / most, alpha=0.4)
            label = f"{row['model']} {row['dtype']} {row['dimensions']}"
            axes.annotate(label, (x, y), textcoords="offset points", xytext=(6, 6), fontsize=7)
        axes.set(xlabel="tokens per second", ylabel=metric)
        axes.grid(visible=True, alpha=0.3)
        axes.margins(0.25)
    try:
        figure.savefig(file, dpi=120)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--plot {file} cannot be written: {error}") from error
