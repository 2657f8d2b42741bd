"""Rows as a table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_table(rows: Sequence[dict[str, Any]], title: str) -> None:
    """Print one or more rows as a table with a column per key; numbers are right-aligned, NaN is a dash.

    Example:
        >>> print_table([{"class": "road", "iou": 0.5}], "Scores")  # doctest: +ELLIPSIS
        Scores
        ...
        │ road  │ 0.5000 │
        ...
    """
    table, columns = Table(), dict[str, Any]()
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, value)
    for name, value in columns.items():
        table.add_column(escape(name), justify="left" if isinstance(value, str) else "right", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(name, "")) for name in columns))
    console = Console(width=None if Console().is_terminal else 120)
    console.print(escape(title), table, sep="\n")  # in one call: another process may print too


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4f}"
    return escape(str(value))
