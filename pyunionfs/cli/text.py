"""Text on its way to a terminal or a program: what is untrusted made harmless, tables, JSON."""

import json
import os
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def printable(text: str) -> str:
    """A name of a layer, unable to end its line or to control the terminal: what is odd in it is escaped."""
    return "".join(
        char if char.isprintable() else os.fsencode(char).decode("latin-1").encode("unicode_escape").decode()
        for char in text
    )


def size(count: int) -> str:
    """Bytes for people, in powers of 1000 as docker prints them."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def table(*headings: str) -> Any:
    """A table; ``>`` before a heading aligns the column to the right."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    for heading in headings:
        right = heading.startswith(">")
        made.add_column(heading.lstrip(">"), justify="right" if right else "left", no_wrap=True)
    return made


def print_table(rows: Any) -> None:
    """Print it in full: on a narrow terminal lines wrap, nothing is cut."""
    from rich.console import Console

    console = Console(width=10_000, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(rows)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())
