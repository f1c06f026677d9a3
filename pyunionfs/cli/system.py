"""``pyunionfs system``: what a store takes on disk, whether it is sound, and what nobody needs."""

import sys
from dataclasses import asdict
from pathlib import Path

import click

from ..container import upkeep
from ..container.containers import Containers
from ..container.run import Runner
from ..container.usage import usage
from ..image.store import Store
from .text import json_option, print_json, print_table, printable, size, table


@click.group()
@click.option(
    "--root", type=click.Path(file_okay=False, path_type=Path), help="The store. Default: as for 'pyunionfs image'."
)
@click.pass_context
def system(context: click.Context, root: Path | None) -> None:
    """Look after the store: images, layers and containers."""
    store = Store(root)
    context.obj = Runner(store, Containers(store.root))


@system.command()
@json_option
@click.pass_obj
def df(runner: Runner, as_json: bool) -> None:
    """Show what the store takes on disk.

    Layers and blobs (the layers as they came, to be saved again) are active if a container has them; what is
    reclaimable 'system prune --all' removes.
    """
    found = usage(runner)
    if as_json:
        print_json([asdict(item) for item in found])
        return
    rows = table("TYPE", ">TOTAL", ">ACTIVE", ">SIZE", ">RECLAIMABLE")
    for item in found:
        rows.add_row(item.kind, str(item.total), str(item.active), size(item.size), size(item.reclaimable))
    print_table(rows)


@system.command()
@click.option("--repair", is_flag=True, help="Put right what can be without losing anything.")
@json_option
@click.pass_obj
def check(runner: Runner, repair: bool, as_json: bool) -> None:
    """Look for damage and leftovers in the store.

    Images, layers, blobs and tags are compared with each other, and the directory of each container that does not
    run is checked as by 'pyunionfs check'. What a killed process leaves is repairable. What the layers hold is not
    read: 'image verify' does that. Exit code 1 if anything is left to be put right.
    """
    found = list(upkeep.check(runner, repair=repair))
    if as_json:
        told = [
            {"where": fault.where, "what": fault.words, "repairable": fault.repair is not None, "repaired": done}
            for fault, done in found
        ]
        print_json(told)
    else:
        for fault, done in found:
            how = "repaired" if done else "repairable" if fault.repair is not None else ""
            click.echo(f"{printable(fault.where)}: {printable(fault.words)}" + (f"  ({how})" if how else ""))
        if not found:
            click.echo(f"{runner.store.root}: sound")
    sys.exit(0 if all(done for _, done in found) else 1)


@system.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Also images with a tag, if no container has them.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.pass_obj
def prune(runner: Runner, everything: bool, force: bool) -> None:
    """Remove containers that do not run, images that nobody calls by a name, and leftovers."""
    if not force:
        which = "all images that no container has" if everything else "images without a tag"
        asked = f"Remove all containers that do not run, with what they have changed, and {which}?"
        if not click.confirm(asked):
            raise OSError("nothing was removed")
    before = sum(item.size for item in usage(runner))
    for kind, name in upkeep.prune(runner, everything=everything):
        click.echo(f"removed  {kind} {name}")
    click.echo(f"reclaimed {size(max(before - sum(item.size for item in usage(runner)), 0))}")
