"""``check``: a fsck for upper directories."""

import re
import sys
from itertools import groupby
from typing import TYPE_CHECKING

import click

from .. import daemon
from ..spec import split_layers
from .text import json_option, print_json, printable

if TYPE_CHECKING:
    from rich.console import Console

    from ..check import Finding, Problem, Report

_SHOWN = 10  # findings of a class, unless all are asked for
_COLOURS = {"error": "bold red", "warning": "yellow", "info": "cyan"}  # the worst first


@click.command()
@click.option(
    "--lower",
    metavar="A[:B...][::C...]",
    required=True,
    help="All lower layers of the mount, the topmost first; data-only layers after '::'.",
)
@click.option(
    "--work",
    metavar="DIR",
    help="The work directory. [default: the hidden sibling of UPPER that 'pyunionfs mount' makes]",
)
@click.option("--userxattr", is_flag=True, help="The marks are in user.overlay.*; so says -o userxattr too.")
@click.option("-o", "options", type=click.Choice(["userxattr"]), multiple=True, hidden=True)
@click.option("--repair", is_flag=True, help="Change what is safe to change, and say what was.")
@click.option("--all", "-a", "show_all", is_flag=True, help=f"List all findings, not the first {_SHOWN} of a kind.")
@json_option
@click.argument("upper", metavar="UPPER")
def check(
    lower: str,
    work: str | None,
    userxattr: bool,
    options: tuple[str, ...],
    repair: bool,
    show_all: bool,
    as_json: bool,
    upper: str,
) -> None:
    """Look for damage in an upper directory.

    UPPER and the work directory are compared with the lower layers as the kernel and 'pyunionfs mount' look at
    them: whiteouts that hide nothing, redirects to nowhere, files whose data is missing, broken index entries,
    leftovers of a crash, marks that mean nothing. A finding is an error (something is lost, or a mount is
    refused), a warning (something should not be there) or an info.

    --repair removes leftovers, whiteouts that hide nothing and index entries of what is gone, and marks
    directories impure. What the union shows stays as it is; no file of yours is changed or removed, and damage
    that only you can judge is left alone. It refuses a directory that is mounted.

    \b
    Exit codes:
      0  nothing is wrong (there may be infos), or all of it was repaired
      1  warnings or errors are left
      2  wrong usage, or it cannot be checked

    \b
    Examples:
      pyunionfs check --lower changes:base mine
      pyunionfs check --lower base --work scratch --repair mine
    """
    from ..check import check as run

    try:
        layers, data = _split_lower(lower)
        userxattr = userxattr or "userxattr" in options
        report = run(upper, layers, work, data=data, userxattr=userxattr, repair=repair)
    except OSError as error:
        click.echo(f"pyunionfs: {daemon.in_words(error)}", err=True)
        sys.exit(2)
    if as_json:
        print_json(report.as_json())
    else:
        _print(report, upper, None if show_all else _SHOWN)
    sys.exit(1 if report.bad else 0)


def _split_lower(text: str) -> tuple[list[str], list[str]]:
    """Split ``a:b::c::d`` into layers and data-only layers; a backslash makes a colon part of a path."""
    first, *data = re.split(r"(?<!\\)::", text.replace("\\\\", "\0"))
    paths = [split_layers(part.replace("\0", "\\\\")) for part in (first, *data)]
    return paths[0], [path for part in paths[1:] for path in part]


def _print(report: "Report", upper: str, limit: int | None) -> None:
    """Findings by class, the worst first, and what they come to."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    rank = list(_COLOURS).index
    found = sorted(report.findings, key=lambda item: (rank(item.problem.severity.value), item.problem.name))
    for problem, group in groupby(found, key=lambda item: item.problem):
        _print_group(console, problem, list(group), limit)
    for note in report.notes:
        click.echo(f"note: {printable(note)}", err=True)
    console.print(f"{printable(upper)}: {_summary(report)}", markup=False)


def _print_group(console: "Console", problem: "Problem", items: "list[Finding]", limit: int | None) -> None:
    from rich.text import Text

    severity = problem.severity.value
    console.print(Text.assemble((f"{severity}: ", _COLOURS[severity]), (problem.heading, "bold"), f" [{problem}]"))
    shown = items[:limit]
    paths = [printable(item.shown_path) for item in shown]
    width = min(max(map(len, paths)), 40)
    for path, item in zip(paths, shown, strict=True):
        line = Text(f"  {path:<{width}}  {printable(item.message)}")
        if item.repaired:
            line.append("  repaired", "green")
        elif item.repair:
            line.append("  repairable", "dim")
        console.print(line)
    if len(items) > len(shown):
        console.print(f"  ... and {len(items) - len(shown):,} more; --all lists them")
    console.print()


def _summary(report: "Report") -> str:
    counts = report.count()
    left = ", ".join(_number(counts[severity], severity) for severity in _COLOURS if counts[severity])
    words = left or "nothing wrong"
    if counts["repaired"]:
        words = f"{counts['repaired']:,} repaired, {left + ' left' if left else 'nothing wrong any more'}"
    repairable = sum(bool(item.repair) and not item.repaired for item in report.findings)
    words += f" in {_number(counts['objects'], 'object')}"
    return words + (f"; --repair takes care of {repairable:,}" if repairable else "")


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
