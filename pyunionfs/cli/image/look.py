"""Looking at images: ``ls``, ``inspect``, ``history``, ``diff``, ``verify``."""

import json
import os
import sys
from collections.abc import Iterator

import click

from ...image import audit
from ...image.images import Image
from ...image.store import Store
from ..text import json_option, print_json, print_table, printable, size, table
from .shown import details, layer_facts, plain, summary


@click.command("ls")
@json_option
@click.pass_obj
def list_images(store: Store, as_json: bool) -> None:
    """List the images in the store."""
    images = store.images()
    if as_json:
        print_json([summary(item) for item in images])
        return
    rows = table("TAG", "IMAGE ID", "CREATED", "PLATFORM", ">LAYERS", ">SIZE")
    for item in images:
        for tag in item.tags or ("(none)",):
            row = (
                tag,
                item.short_id,
                plain(item.created[:19]),
                plain(item.platform),
                str(len(item.layers)),
                size(item.size),
            )
            rows.add_row(*row)
    print_table(rows)


@click.command()
@click.argument("reference", metavar="IMAGE")
@json_option
@click.pass_obj
def inspect(store: Store, reference: str, as_json: bool) -> None:
    """Show the configuration and the layers of IMAGE: a tag, an id, or the start of an id.

    Layers are listed from the base up. The path of each is a directory that a union takes as a lowerdir.
    """
    item = store.image(reference)
    if as_json:
        print_json(details(item))
        return
    for label, value in _facts(item):
        click.echo(f"{label + ':' if label else '':14}{plain(value)}".rstrip())
    click.echo()
    rows = table("#", "DIFF ID", ">FILES", ">SIZE", "WHITEOUTS", "DIRECTORY")
    for number, layer in enumerate(item.layers):
        report = layer.report
        marks = f"{report.whiteouts}" + (f" + {report.opaques} opaque" if report.opaques else "")
        rows.add_row(str(number), layer.short_id, str(layer.files), size(layer.size), marks, str(layer.path))
    print_table(rows)


def _facts(item: Image) -> Iterator[tuple[str, str]]:
    config = item.config
    yield "Id", item.id
    yield "Tags", " ".join(item.tags) or "(none)"
    yield "Created", item.created or "(unknown)"
    yield "Platform", item.platform
    yield "Size", size(item.size)
    for key in ("Entrypoint", "Cmd"):
        yield key, json.dumps(config.run_list(key)) if config.run_list(key) else ""
    yield "User", config.run_text("User") or "(root)"
    yield "Workdir", config.run_text("WorkingDir") or "/"
    for number, variable in enumerate(config.run_list("Env")):
        yield "" if number else "Env", variable


@click.command()
@click.argument("reference", metavar="IMAGE")
@json_option
@click.pass_obj
def history(store: Store, reference: str, as_json: bool) -> None:
    """Show how IMAGE was built: each step, newest first, and the layer it made.

    Steps such as ENV and CMD changed only the configuration and made no layer.
    """
    entries = list(reversed(store.image(reference).history))
    if as_json:
        print_json(
            [
                {
                    "Created": entry.step.created,
                    "CreatedBy": entry.step.created_by,
                    "Comment": entry.step.comment,
                    "EmptyLayer": entry.layer is None,
                    "Layer": layer_facts(entry.layer) if entry.layer else None,
                }
                for entry in entries
            ]
        )
        return
    rows = table("LAYER", "CREATED", ">SIZE", "CREATED BY")
    for entry in entries:
        layer = entry.layer
        made = (layer.short_id, size(layer.size)) if layer else ("-", "0 B")
        said = "  # ".join(filter(None, (entry.step.created_by, entry.step.comment))) or "(no record)"
        rows.add_row(made[0], plain(entry.step.created[:19]), made[1], plain(said))
    print_table(rows)


@click.command()
@click.argument("references", metavar="[IMAGE...]", nargs=-1)
@click.pass_obj
def verify(store: Store, references: tuple[str, ...]) -> None:
    """Read all that is stored of images, or of all images, and compare the digests.

    Exit code 1 if anything is damaged; what is said then is loaded again by 'image load'.
    """
    images = [store.image(reference) for reference in references] or store.images()
    damaged = 0
    for item in images:
        wrong = audit.verify(store, item)
        name = item.tags[0] if item.tags else item.short_id
        click.echo(f"{name}  {'damaged' if wrong else 'sound'}")
        for line in wrong:
            click.echo(f"  {line}")
        damaged += bool(wrong)
    sys.exit(1 if damaged else 0)


@click.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@json_option
@click.pass_obj
def diff(store: Store, old: str, new: str, as_json: bool) -> None:
    """List what is in the image NEW and not in OLD (A), in OLD and not in NEW (D), or not the same in both (C).

    Data, modes, owners, times and xattrs are compared. Layers that both images have are not read.
    """
    from ...views.compare import compare, view

    one, two = store.image(old), store.image(new)
    with store.hold(one), store.hold(two), view(store, one.layers) as before, view(store, two.layers) as after:
        if after is None:
            raise OSError(f"{new} has no layers")
        found = [(item.kind, os.path.normpath("/" + os.fsdecode(item.path))) for item in compare(before, after)]
    if as_json:
        print_json([{"path": path, "kind": kind} for kind, path in found])
        return
    for kind, path in found:
        click.echo(f"{kind} {printable(path)}")


COMMANDS = (list_images, inspect, history, diff, verify)
