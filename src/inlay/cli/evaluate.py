"""`inlay eval`: which model, which dtype, how many dimensions: quality, speed and memory in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlay.cli.options import with_settings
from inlay.config import EVAL, Settings
from inlay.errors import ConfigError

if TYPE_CHECKING:
    from inlay.evaluation.candidate import EvaluationSet


@with_settings(EVAL)
def evaluate(
    settings: Settings,
    model: Annotated[list[str], typer.Argument(help="Models to compare: demo, hub ids or directories.")],
    on: Annotated[list[Path], typer.Option("--on", help="A csv of pairs, or a folder of BEIR's or TREC's (repeat).")],
    dtypes: Annotated[str, typer.Option(help="Compare these, with commas; default: --dtype alone.")] = "",
    dimensions: Annotated[str, typer.Option(help="Compare these, with commas; default: all of them.")] = "",
    plot: Annotated[Path | None, typer.Option(help="Draw quality against speed, .png or .svg.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows.")] = None,
) -> None:
    """Compare models, dtypes and dimensions on texts whose answers are known: quality, speed and memory.

    Similarity gives Spearman's correlation, retrieval nDCG@10 and recall@100. Texts get the model's own prompts.
    """
    import orjson

    from inlay.evaluation.candidate import measure
    from inlay.evaluation.chart import draw

    sets = [_read(path) for path in on]
    names = [name.strip() for name in dtypes.split(",") if name.strip()] or [settings.dtype]
    arguments = {"device": settings.device, "int8_cosine": settings.int8_cosine}
    rows: list[dict[str, Any]] = []
    for one in model:
        for dtype in names:
            found = measure(one, {**arguments, "dtype": dtype}, sets, _numbers(dimensions))
            rows += found
            typer.echo(f"{one} {dtype}: {found[0]['tokens_per_s']:,.0f} tokens/s", err=True)
    _print(rows)
    if json_file is not None:
        json_file.write_bytes(orjson.dumps(rows, option=orjson.OPT_INDENT_2))
    if plot is not None:
        draw(plot, rows)


def _read(path: Path) -> EvaluationSet:
    from inlay.evaluation.retrieval import read_retrieval
    from inlay.evaluation.similarity import read_similarity

    if not path.exists():
        raise ConfigError(f"--on {path}: there is no such file or folder")
    return read_retrieval(path) if path.is_dir() else read_similarity(path)


def _numbers(given: str) -> list[int]:
    parts = [part.strip() for part in given.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError(f"--dimensions {given}: write whole numbers with commas, such as 1024,256")
    return [int(part) for part in parts]


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from inlay.cli.tables import print_table

    metrics = list(rows[0]["scores"])
    table = Table("model", "dtype", "dimensions", *metrics, "tokens/s", "load s", "peak MiB", "bytes a vector")
    for row in rows:
        scores = (f"{row['scores'][metric]:.4f}" for metric in metrics)
        costs = (f"{row['tokens_per_s']:,.0f}", f"{row['load_s']:.1f}", f"{row['peak_bytes'] / 2**20:,.0f}")
        table.add_row(row["model"], row["dtype"], str(row["dimensions"]), *scores, *costs, str(4 * row["dimensions"]))
    print_table(table)
