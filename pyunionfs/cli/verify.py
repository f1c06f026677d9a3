"""``verify``: the kernel's overlayfs and ours, side by side."""

import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .. import linux
from .text import json_option, print_json

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from ..verify.mounting import Options
    from ..verify.runner import Report

_CANNOT = 2  # exit code


@click.command()
@click.option("--ops", default=2000, show_default=True, metavar="N", help="How many operations for each set.")
@click.option("--seed", type=int, metavar="S", help="Make the same run again. [default: another one each time]")
@click.option(
    "--options-set", "name", default="plain", show_default=True, metavar="NAME|all", help="Mount options."
)
@click.option(
    "--option", "extra", multiple=True, metavar="KEY=VALUE", help="A mount option beside those of the set."
)
@click.option("--in", "directory", metavar="DIR", help="Where the layers lie. [default: a tmpfs of their own]")
@click.option("--script", "script_file", metavar="FILE", help="Write the script of a divergence here as well.")
@click.option("--self-test", is_flag=True, help="Compare the kernel with itself: that must find nothing.")
@click.option("--list-divergences", is_flag=True, help="What is known to differ, and why; then end.")
@json_option
def verify(
    ops: int,
    seed: int | None,
    name: str,
    extra: tuple[str, ...],
    directory: str | None,
    script_file: str | None,
    self_test: bool,
    list_divergences: bool,
    as_json: bool,
) -> None:
    """Do random operations on the kernel's overlayfs and on pyunionfs, and compare.

    Both mount the same lower layers, in which every kind of object lies on every other. Each step compares what
    it returns, and what is seen of its files afterwards; at intervals, the merged trees and the upper directories.
    A difference is made small, and printed as a shell script that shows it.

    NAME is a set of mount options: plain, userxattr, redirect_dir=on, redirect_dir=follow, redirect_dir=nofollow,
    metacopy=on, index=on, xino=on, nfs_export=on, all-on, or "all" for each set in turn.

    Exit codes: 0 no difference, 1 a difference, 2 this cannot be done here (it needs root, overlayfs, hypothesis).
    Everything happens in a private mount namespace, and nothing is left behind.
    """
    if list_divergences:
        _list(as_json)
        return
    with _place(directory) as root:
        _verify(ops, _seed(seed), _sets(name, extra), root, script_file, self_test, as_json)


def _verify(
    ops: int,
    seed: int,
    sets: "dict[str, Options]",
    root: Path,
    script_file: str | None,
    self_test: bool,
    as_json: bool,
) -> None:
    from ..verify import runner, script

    sides = runner.KERNEL_TWICE if self_test else runner.KERNEL_AND_OURS
    rows: list[dict[str, Any]] = []
    with _progress() as progress:
        for label, options in sets.items():
            if why := runner.missing(options, sides, root):
                rows.append({"set": label, "skipped": why})
                continue
            task = progress.add_task(label, total=ops)
            report = runner.verify(
                options,
                ops=ops,
                seed=seed,
                root=root,
                sides=sides,
                progress=partial(_advance, progress, task),
            )
            row = _row(label, report)
            if report.finding is not None:
                command = f"pyunionfs verify --options-set {label} --ops {ops} --seed {seed}"
                row["script"] = script.script(report.finding, options, command)
            rows.append(row)
    _print(rows, seed, script_file, as_json)
    if any(row.get("difference") for row in rows):
        sys.exit(1)
    if all("skipped" in row for row in rows):
        sys.exit(_CANNOT)


def _advance(progress: "Progress", task: "TaskID", steps: int) -> None:
    progress.update(task, completed=steps)


def _row(label: str, report: "Report") -> dict[str, Any]:
    return {
        "set": label,
        "operations": report.steps,
        "examples": report.examples,
        "seconds": round(report.seconds, 1),
        "left_out": report.lacking,
        "difference": report.finding.difference if report.finding else None,
    }


def _print(rows: list[dict[str, Any]], seed: int, script_file: str | None, as_json: bool) -> None:
    from ..verify import script

    texts = [row["script"] for row in rows if "script" in row]
    if texts and script_file is not None:
        script.write(script_file, texts[0])
    if as_json:
        print_json({"kernel": platform.release(), "seed": seed, "sets": rows})
        return
    for row in rows:
        if "skipped" in row:
            click.echo(f"{row['set']}: not compared: {row['skipped']}", err=True)
            continue
        done = f"{row['operations']} operations in {row['examples']} examples, {row['seconds']} s"
        left_out = f" (without {', '.join(row['left_out'])})" if row["left_out"] else ""
        found = "no difference" if row["difference"] is None else f"a difference: {row['difference']}"
        click.echo(f"{row['set']}: {done}, seed {seed}{left_out}: {found}")
    for text in texts:
        click.echo(text)


def _list(as_json: bool) -> None:
    from ..verify.divergences import DIVERGENCES

    rows = [{"name": item.name, "handling": item.handling, "reason": item.reason} for item in DIVERGENCES]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        click.echo(f"{row['name']}\n  why:  {row['reason']}\n  here: {row['handling']}")


def _sets(name: str, extra: tuple[str, ...]) -> "dict[str, Options]":
    """The sets to verify, by name."""
    _need_hypothesis()
    from ..verify.mounting import OPTION_SETS

    if name != "all" and name not in OPTION_SETS:
        raise click.UsageError(f"--options-set {name}: not one of {', '.join([*OPTION_SETS, 'all'])}")
    more: dict[str, str | bool] = {}
    for word in extra:
        key, equals, value = word.partition("=")
        more[key] = value if equals else True
    chosen = OPTION_SETS if name == "all" else {name: OPTION_SETS[name]}
    return {label: {**options, **more} for label, options in chosen.items()}


def _need_hypothesis() -> None:
    try:
        import hypothesis  # noqa: F401 - only whether it is there
    except ModuleNotFoundError:
        _cannot("hypothesis is not installed: pip install 'pyunionfs[verify]'")


def _cannot(words: str) -> NoReturn:
    click.echo(f"pyunionfs: cannot verify here: {words}", err=True)
    sys.exit(_CANNOT)


def _seed(seed: int | None) -> int:
    return int.from_bytes(os.urandom(4)) if seed is None else seed


@contextmanager
def _place(directory: str | None) -> Iterator[Path]:
    """A directory for the layers, in a mount namespace of its own, that is gone at the end whatever happens."""
    if os.geteuid() != 0:
        _cannot("mounting the kernel's overlayfs needs root (unshare -Urm makes one, for --options-set userxattr)")
    try:
        from ..verify.mounting import let_go_of_fuse

        linux.unshare(linux.CLONE_NEWNS)
        linux.mount(b"none", b"/", b"", linux.MS_REC | linux.MS_PRIVATE, b"")
        let_go_of_fuse()
    except OSError as error:
        _cannot(f"no mount namespace of its own: {error.strerror}")
    signal.signal(signal.SIGTERM, _terminate)
    from ..verify.mounting import memory

    try:
        with ExitStack() as stack:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyunionfs-verify-", dir=directory)))
            yield stack.enter_context(memory(root)) if directory is None else root
    except _Terminated:
        sys.exit(128 + signal.SIGTERM)


class _Terminated(KeyboardInterrupt):
    """SIGTERM. An interrupt is the one thing that hypothesis does not take for a failure of what it tests."""


def _terminate(number: int, frame: object) -> NoReturn:
    raise _Terminated


@contextmanager
def _progress() -> "Iterator[Progress]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield progress
