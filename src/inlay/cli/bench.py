"""`inlay bench engine|server|compare`: measure, with a card, a table, and one line of JSON last."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from inlay.cli.options import with_settings
from inlay.config import BENCH, Settings
from inlay.errors import ConfigError
from inlay.quantities import parse_duration

if TYPE_CHECKING:
    from inlay.bench.engine import Row

Text = Optional[str]  # noqa: UP045 - typer reads it
Plot = Annotated[Optional[Path], typer.Option(help="Draw latency against throughput: FILE.png or FILE.html.")]  # noqa: UP045

app = typer.Typer(
    help="Measure the engine, a server, or one result against another.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("engine")
@with_settings(BENCH)
def engine(
    settings: Settings,
    model: Annotated[Text, typer.Argument(help="demo, a hub id or a directory.")] = None,
    shape: Annotated[
        Text, typer.Option(help="Instead: random weights of a true shape, such as qwen3-embedding-0.6b.")
    ] = None,
    rows: Annotated[
        Text, typer.Option(help="BATCHxLENGTH in tokens, or mixed: 8x128,1x2048,mixed.  [default: a grid]")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="How long to measure a row; at least three runs.")] = 3.0,
    longest: Annotated[float, typer.Option(min=0, help="Skip rows that would take longer (seconds).")] = 120.0,
    plot: Plot = None,
) -> None:
    """Latency and tokens/s by length and batch, against what the processor could do."""
    from inlay.bench.engine import parse_row
    from inlay.bench.plot import check_plot
    from inlay.bench.shapes import shape_config

    check_plot(plot)
    if (model is None) == (shape is None):
        raise ConfigError("give either a model or --shape, such as --shape qwen3-embedding-0.6b")
    asked = [parse_row(text) for text in rows.split(",")] if rows is not None else None
    if shape is not None:
        shape_config(shape)
    result = _measure_engine(settings, model, shape, asked, seconds, longest)
    _finish(result, plot)


def _measure_engine(
    settings: Settings, model: str | None, shape: str | None, rows: list[Row] | None, seconds: float, longest: float
) -> dict[str, Any]:
    from inlay.bench.ceiling import Ceiling, computed_dtypes, product_sizes
    from inlay.bench.engine import EngineBench, default_rows
    from inlay.bench.start import made_checkpoint, note_peak, start_engine

    with made_checkpoint(shape) if shape else nullcontext((model, 0.0)) as (place, making_seconds):
        started = start_engine(str(place), shape, settings, making_seconds)
        _print_card(started.card)
        spec, most = started.worker.spec, started.max_batch_tokens
        sizes = product_sizes(spec)
        with Ceiling(sizes, spec.dtype, started.device) as ceiling:
            bench = EngineBench(started.worker, ceiling, most)
            measured = list(bench.measure(rows or default_rows(spec.max_tokens), seconds, longest))
        note_peak(started)
        started.worker.close()
    limits = {}
    for name in computed_dtypes(started.device):
        with Ceiling(sizes, name, started.device) as ceiling:
            limits[name] = ceiling.tokens_per_second(most)
    about: dict[str, dict[str, float]] = {
        "start_seconds": started.start,
        "memory_gib": started.memory,
        "ceiling_tokens_per_s": {name: round(limit) for name, limit in limits.items()},
    }
    for what, figures in about.items():
        _print_card({what: ", ".join(f"{name} {figure}" for name, figure in figures.items())})
    return {"bench": "engine", "card": started.card, **about, "rows": measured}


@app.command("server")
def server(
    url: Annotated[str, typer.Argument(help="Of a server with OpenAI's embeddings API: http://HOST:PORT.")],
    model: Annotated[Text, typer.Option(help="Model to name in each request.")] = None,
    api_key: Annotated[Text, typer.Option(envvar="INLAY_API_KEY", help="Key to send; of several, the first.")] = None,
    words: Annotated[str, typer.Option(help="Length of each text: 15, or a range: 5-200.")] = "15",
    inputs: Annotated[int, typer.Option(min=1, help="Texts in one request.")] = 1,
    concurrency: Annotated[str, typer.Option(help="Connections, one step for each number.")] = "1,4,8,16,32,64",
    seconds: Annotated[float, typer.Option(min=0.1, help="About how long each step takes.")] = 5.0,
    slo: Annotated[
        Text, typer.Option(help="Instead of the sweep: the highest rate with P99 within, say, 100ms.")
    ] = None,
    plot: Plot = None,
) -> None:
    """Load a server with unique texts: latency, requests/s, tokens/s and errors."""
    from inlay.bench.card import machine_card
    from inlay.bench.plot import check_plot
    from inlay.bench.server import Requests, ServerBench, parse_counts, parse_words
    from inlay.bench.target import Target

    check_plot(plot)
    steps = parse_counts(concurrency, "--concurrency")
    promise = None if slo is None else _milliseconds(slo)
    if promise is not None and promise <= 0:
        raise ConfigError(f"--slo {slo}: no server answers in no time; write, say, 100ms")
    key = None if api_key is None else next((part.strip() for part in api_key.split(",") if part.strip()), None)
    bench = ServerBench(Target(url, key), Requests(model, inputs, *parse_words(words)))
    bench.warm_up()
    card = {**machine_card(), "url": url, "model": model or "", "words": words, "inputs": inputs}
    _print_card(card)
    trials = bench.sweep(steps, seconds) if promise is None else bench.highest_rate(promise, seconds)
    rows = []
    for row in trials:
        rows.append(row)
        if promise is not None:
            typer.echo(f"{row['rate']:>10} requests/s: P99 {row['p99_ms']} ms, {sum(row['errors'].values())} errors")
    result: dict[str, Any] = {"bench": "server", "card": card, "rows": rows}
    if promise is not None:
        kept = [row["rate"] for row in rows if row["keeps"]]
        result["slo"] = {"p99_ms": promise, "highest_rate": max(kept, default=0.0)}
        _print_card({f"highest rate with P99 within {promise:g} ms": f"{max(kept, default=0.0)} requests/s"})
    _finish(result, plot)


@app.command("compare")
def compare(
    first: Annotated[Path, typer.Argument(help="File with the output of a bench.")],
    second: Annotated[Path, typer.Argument(help="Another, to divide by.")],
) -> None:
    """Ratios of the first result to the second."""
    from inlay.bench.compare import compare as compare_results
    from inlay.bench.compare import differences, read_result

    one, other = read_result(first), read_result(second)
    rows = compare_results(one, other)
    for what in differences(one, other):
        typer.echo(f"note: {what}")
    _finish({"bench": "compare", "first": str(first), "second": str(second), "rows": rows}, None)


def _milliseconds(text: str) -> float:
    try:
        return parse_duration(text) * 1000
    except ValueError as error:
        raise ConfigError(f"--slo: {error}") from error


def _print_card(card: Mapping[str, Any]) -> None:
    for what, value in card.items():
        typer.echo(f"{what:21} {value}")


def _finish(result: dict[str, Any], plot: Path | None) -> None:
    from inlay.bench.plot import plot as draw

    _print_rows(result["rows"])
    try:
        if plot is not None:
            card = result["card"]
            draw(plot, f"{card['model']} {card.get('dtype', '')} on {card['processor']}", result["rows"])
            typer.echo(f"drawn into {plot}")
    finally:  # what was measured is not lost with its drawing
        typer.echo(json.dumps(result))


def _print_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    from rich.table import Table

    from inlay.cli.tables import print_table

    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*columns)
    for row in rows:
        table.add_row(*(_shown(row.get(column, "")) for column in columns))
    print_table(table)


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} ×{count}" for name, count in value.items())
    return str(value)
