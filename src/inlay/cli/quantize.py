"""`inlay quantize MODEL -o DIR`: measure int8 or fp8 once, and write a checkpoint that starts quickly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inlay.cli.options import with_settings
from inlay.config import AUTO, QUANTIZE, Settings

MOST_SHOWN = 8


@with_settings(QUANTIZE)
def quantize(
    settings: Settings,
    model: Annotated[str, typer.Argument(help="demo, a hub id or a directory.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New directory for the checkpoint.")],
) -> None:
    """Write a model in int8, or fp8, measured on built-in text; serve the directory like any other."""
    from inlay.engine.device import FP8, INT8, choose
    from inlay.engine.loading import make_runner
    from inlay.engine.tokenizer import make_tokenizer
    from inlay.errors import ConfigError, ModelError
    from inlay.models.source import locate, served_name
    from inlay.models.spec import read_spec

    spec = read_spec(locate(model), served_name(model))
    if spec.adapter is not None:
        raise ModelError(
            f"{model} is an adapter: serve it with --dtype int8 or fp8, which measures it at each start, or merge it "
            "into its base with peft (merge_and_unload), and quantise the result"
        )
    scheme = INT8 if settings.dtype == AUTO else settings.dtype
    if scheme not in (INT8, FP8):
        raise ConfigError(f"--dtype {scheme} is no quantisation: use int8 (the default), or fp8 for GPUs")
    is_cpu = scheme == INT8 and settings.device == AUTO
    choice = choose("cpu" if is_cpu else settings.device, scheme)
    runner = make_runner(spec, choice, settings.int8_cosine, lambda: make_tokenizer(spec))
    report = runner.report
    if report is None:
        raise ModelError(f"{model} is quantised already")
    size = runner.write_quantised(output, choice)
    typer.echo(f"{output}: {size / 2**20:.0f} MiB of weights")
    full = str(choice.dtype).removeprefix("torch.")
    typer.echo(f"cosine to {full}: mean {report.mean_cosine:.5f}, worst {report.worst_cosine:.5f}")
    typer.echo(f"{len(report.errors) - len(report.kept)} of {len(report.errors)} products in {scheme}; kept out of it:")
    hardest = sorted(report.kept, key=lambda name: report.errors[name], reverse=True)
    for name in hardest[:MOST_SHOWN]:
        typer.echo(f"  {name}, which misses a row by {report.errors[name]:.1%}")
    if len(hardest) > MOST_SHOWN:
        typer.echo(f"  and {len(hardest) - MOST_SHOWN} more")
