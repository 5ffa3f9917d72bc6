"""Tables for people, wide enough for a pipe."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

PIPE_WIDTH = 140


def print_table(table: Table) -> None:
    """On a terminal in its width; elsewhere in one that does not break the columns."""
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)
