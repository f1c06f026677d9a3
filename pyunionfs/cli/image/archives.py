"""Archives of images: ``load``, ``save``, ``import``, ``extract``."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click

from ...image import save as saving
from ...image.archive import split_reference
from ...image.config import source_date_epoch
from ...image.extract import extract as unpack
from ...image.images import Image
from ...image.reference import normalised
from ...image.store import Progress, Store
from ...image.workspace import replacing
from ...overlay.marks import USER
from ..text import json_option, print_json
from .shown import summary


@click.command()
@click.argument("archive")
@click.option("--only", metavar="NAME:TAG", help="Of several images take this one, as ARCHIVE#NAME:TAG does.")
@click.option("--tag", metavar="NAME", help="Call the image NAME instead of what the archive says.")
@click.option("--platform", metavar="OS/ARCH", help="Which image of a multi-platform one. Default: this machine's.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
@json_option
@click.pass_obj
def load(
    store: Store,
    archive: str,
    only: str | None,
    tag: str | None,
    platform: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Load the images of ARCHIVE into the store.

    ARCHIVE is what `docker save`, `podman save` or `skopeo copy` wrote: a tar, plain or compressed with gzip,
    bzip2, xz or zstd; an OCI layout or skopeo's dir (a directory); or - for standard input. Of several images
    in one archive, ARCHIVE#NAME:TAG takes one.

    Every digest is verified. Layers that the store has already are shared, not unpacked again.

    \b
    Examples:
      docker save app:4 | pyunionfs image load -
      pyunionfs image load ci.tar#app:4
    """
    counted: dict[str, dict[str, int]] = {}

    def count(event: Progress) -> None:
        if event.step in ("new", "shared"):
            kinds = counted.setdefault(event.image, {"new": 0, "shared": 0})
            kinds[event.step] += 1

    with _progress_bar(quiet or not sys.stderr.isatty()) as show_progress:

        def listen(event: Progress) -> None:
            count(event)
            show_progress(event)

        found = store.load(_open(archive), reference=only, tag=tag, platform=platform, progress=listen)
    none = {"new": 0, "shared": 0}
    if as_json:
        print_json([summary(item) | {"Loaded": counted.get(item.id, none)} for item in found])
        return
    for item in found:
        kinds = counted.get(item.id, none)
        names = " ".join(item.tags) or "(no tag)"
        layers = f"{len(item.layers)} layers: {kinds['new']} new, {kinds['shared']} shared"
        click.echo(f"{names}  {item.short_id}  {layers}")
        for remark in _remarks(item):
            click.echo(f"  note: {remark}", err=True)


@contextmanager
def held_for_mount(archive: str, root: str | None) -> Iterator[tuple[list[Path], bool]]:
    """The layers of one image, top to bottom, for ``pyunionfs mount --image``, and whether their marks are user
    xattrs. They cannot be removed from the store meanwhile, nor while a daemon lives that was forked in between.

    ``archive`` is as for ``image load``; where no such file exists, an image in the store of that name. Layers
    that the store has are not unpacked again. Raises ImageError, OSError.
    """
    store = Store(root)
    if archive == "-" or os.path.lexists(split_reference(archive, exists=os.path.lexists(archive))[0]):
        with _progress_bar(not sys.stderr.isatty()) as show_progress:
            found = store.load(_open(archive), single=True, progress=show_progress)[0]
    else:
        found = store.image(archive)
    with store.hold(found) as lowerdirs:
        yield lowerdirs, store.marks is USER


def _open(archive: str) -> str | BinaryIO:
    return sys.stdin.buffer if archive == "-" else archive


def _remarks(item: Image) -> Iterator[str]:
    """What a person should know of how the layers were unpacked; nothing when all was as usual."""
    usual = ("directories without an entry", "AUFS metadata ignored")
    for layer in item.layers:
        for what, remark in layer.report.remarks.items():
            if what not in usual:
                names = ", ".join(remark.names[:2]) + (", ..." if remark.count > 2 else "")
                yield f"layer {layer.short_id}: {what}: {remark.count} ({names})"


@contextmanager
def _progress_bar(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    if quiet:
        yield lambda event: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def listen(event: Progress) -> None:
            if event.step == "spool":
                text = "reading the archive"
            else:
                text = f"layer {event.number}/{event.layers} {event.layer[7:19]}"
            if text not in tasks:
                tasks[text] = bars.add_task(text, total=event.total or None)
            bars.update(tasks[text], completed=event.done)

        yield listen


@click.command()
@click.argument("references", metavar="IMAGE...", nargs=-1, required=True)
@click.option("--output", "-o", metavar="FILE", help="Write to FILE. Default: standard output.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(saving.FORMATS),
    default="docker",
    show_default=True,
    help="docker: for docker, podman, skopeo and containerd. oci: without what only docker reads.",
)
@click.option(
    "--compress",
    "compression",
    type=click.Choice(saving.COMPRESSIONS),
    help="Compress layers that are not so already. Default: byte for byte as they were loaded.",
)
@click.pass_obj
def save(
    store: Store, references: tuple[str, ...], output: str | None, layout: str, compression: str | None
) -> None:
    """Write images into an archive, as `docker save` does.

    An IMAGE that is given by a tag has that tag in the archive, one that is given by its id has none. The same
    images always make the same archive.

    \b
    Examples:
      pyunionfs image save app:5 | docker load
      pyunionfs image save app:5 -o app.tar --compress zstd
    """
    images: dict[str, tuple[Image, list[str]]] = {}
    for reference in references:
        item = store.image(reference)
        _, names = images.setdefault(item.id, (item, []))
        names += [tag for tag in item.tags if tag == normalised(reference) and tag not in names]
    if output is None:
        if sys.stdout.isatty():
            raise OSError("an archive is nothing for a terminal: name a file by -o, or use a pipe")
        saving.save(store, list(images.values()), sys.stdout.buffer, layout=layout, compression=compression)
        return
    with replacing(Path(output)) as file:
        saving.save(store, list(images.values()), file, layout=layout, compression=compression)


@click.command("import")
@click.option("--message", "-m", default="", help="A comment for the history.")
@click.argument("tar", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("name", metavar="[NAME[:TAG]]", required=False)
@click.pass_obj
def import_(store: Store, message: str, tar: Path, name: str | None) -> None:
    """Make an image of TAR, which holds a root directory: plain or compressed, as `docker export` writes it."""
    from ...image.rootfs import import_rootfs

    made = import_rootfs(store, tar, tag=name, message=message, epoch=source_date_epoch())
    click.echo(made.id)


@click.command()
@click.argument("reference", metavar="IMAGE")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@json_option
@click.pass_obj
def extract(store: Store, reference: str, directory: Path, as_json: bool) -> None:
    """Unpack each layer of IMAGE into a directory of its own below DIRECTORY.

    00-... is the base. Deletions are overlayfs whiteouts (character devices 0:0), so the directories can be
    mounted as they are, the top one leftmost.
    """
    paths = unpack(store, store.image(reference), directory)
    if as_json:
        print_json([str(path) for path in paths])
        return
    for path in paths:
        click.echo(path)


COMMANDS = (load, save, import_, extract)
