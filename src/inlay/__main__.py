"""`python -m inlay` is `inlay`."""

from inlay.cli.main import run

run()
