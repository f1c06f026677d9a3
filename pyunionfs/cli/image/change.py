"""Making, naming and removing images: ``commit``, ``squash``, ``tag``, ``rm``, ``prune``."""

from pathlib import Path

import click

from ...image import removal
from ...image.store import Store
from ..text import json_option, print_json
from .shown import summary


@click.command()
@click.option("--message", "-m", default="", help="A comment for the history.")
@click.option("--author", "-a", default="", help="Who has made it.")
@click.option(
    "--change",
    "-c",
    "instructions",
    multiple=True,
    metavar="INSTRUCTION",
    help="A line of a Dockerfile that changes how the image runs: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, "
    "VOLUME, WORKDIR, STOPSIGNAL. Repeatable.",
)
@click.argument("reference", metavar="IMAGE")
@click.argument("upper", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("name", metavar="[NAME[:TAG]]", required=False)
@json_option
@click.pass_obj
def commit(
    store: Store,
    message: str,
    author: str,
    instructions: tuple[str, ...],
    reference: str,
    upper: Path,
    name: str | None,
    as_json: bool,
) -> None:
    """Make an image of IMAGE and what the directory UPPER changes over it.

    UPPER is the upper directory of a mount on IMAGE. Its changes become one layer more: a file that was deleted
    an entry .wh.NAME, a directory that was replaced one with .wh..wh..opq. If it changes nothing there is no new
    layer, only an entry of the history. SOURCE_DATE_EPOCH makes the result depend on the changes alone.

    \b
    Example:
      pyunionfs mount --image app:4 --upper mine /mnt/m
      echo hello >/mnt/m/greeting
      pyunionfs image commit -m "a greeting" app:4 mine app:5
    """
    from ...container.commit import commit as make

    base = store.image(reference)
    made = make(store, base, upper, tag=name, message=message, author=author, instructions=instructions)
    if as_json:
        print_json(summary(made))
        return
    click.echo(made.id)


@click.command()
@click.option("--onto", metavar="BASE", help="An image whose layers stay as they are. Default: none does.")
@click.argument("reference", metavar="IMAGE")
@click.argument("name", metavar="[NAME[:TAG]]", required=False)
@json_option
@click.pass_obj
def squash(store: Store, onto: str | None, reference: str, name: str | None, as_json: bool) -> None:
    """Make an image that shows the same as IMAGE, of one layer in place of several.

    What one of these layers has and a later one deletes or replaces is not in the new one. The steps of the history
    stay, without layers.

    \b
    Examples:
      pyunionfs image squash app:5 app:flat
      pyunionfs image squash --onto debian:12 app:5 app:flat
    """
    from ...container.commit import squash as make

    base = store.image(onto) if onto is not None else None
    made = make(store, store.image(reference), onto=base, tag=name)
    if as_json:
        print_json(summary(made))
        return
    click.echo(made.id)


@click.command()
@click.argument("reference", metavar="IMAGE")
@click.argument("name", metavar="NAME[:TAG]")
@click.pass_obj
def tag(store: Store, reference: str, name: str) -> None:
    """Give IMAGE one more name; an image that had it loses it."""
    store.tag(reference, name)


@click.command()
@click.argument("references", metavar="IMAGE...", nargs=-1, required=True)
@json_option
@click.pass_obj
def rm(store: Store, references: tuple[str, ...], as_json: bool) -> None:
    """Remove images, and the layers that no other image has.

    A tag of several is only taken off; the last one removes the image. An id removes it with all its tags.
    """
    removed = [removal.remove(store, reference) for reference in references]
    if as_json:
        print_json([{"Tags": r.tags, "Images": r.images, "Layers": r.layers} for r in removed])
        return
    for item in removed:
        for name in item.tags:
            click.echo(f"untagged {name}")
        for image_id in item.images:
            click.echo(f"removed  {image_id}")
        for diff_id in item.layers:
            click.echo(f"removed  layer {diff_id}")


@click.command()
@click.pass_obj
def prune(store: Store) -> None:
    """Remove the images that have neither a tag nor a container, and the layers that only they have."""
    for item in removal.prune(store):
        for image_id in item.images:
            click.echo(f"removed  {image_id}")


COMMANDS = (commit, squash, tag, rm, prune)
