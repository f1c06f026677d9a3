"""``pyunionfs image``: load archives of container images, look at them, take them apart.

Parse, call :class:`~pyunionfs.image.store.Store`, print: nothing else happens here. Errors pass through; the
group that this one belongs to turns them into one line.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click

from pyunionfs.image import save as saving
from pyunionfs.image.archive import split_reference
from pyunionfs.image.config import source_date_epoch
from pyunionfs.image.images import Image
from pyunionfs.image.layers import Layer
from pyunionfs.image.reference import normalised
from pyunionfs.image.store import Progress, Store
from pyunionfs.image.workspace import replacing
from pyunionfs.overlay.marks import USER

from .text import print_table, table


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@click.group()
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    help="The store. Default: $PYUNIONFS_ROOT, else /var/lib/pyunionfs for root and "
    "~/.local/share/pyunionfs for others.",
)
@click.pass_context
def image(context: click.Context, root: Path | None) -> None:
    """Container images as layers of a union.

    An image is a stack of layers and a configuration. A LAYER is a tar with what one build step added or
    changed; its name is its DIFF ID, the sha256 of that tar. What a step deleted stands in the layer as a
    WHITEOUT: an entry .wh.NAME in the tar, a character device 0:0 once unpacked, the form that overlayfs
    understands.

    The store keeps each layer once, unpacked, however many images have it.
    """
    context.obj = Store(root)


@image.command()
@click.argument("archive")
@click.option("--only", metavar="NAME:TAG", help="Of several images take this one, as ARCHIVE#NAME:TAG does.")
@click.option("--tag", metavar="NAME", help="Call the image NAME instead of what the archive says.")
@click.option("--platform", metavar="OS/ARCH", help="Which image of a multi-platform one. Default: this machine's.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
@_as_json
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
        _print_json([_summary(item) | {"Loaded": counted.get(item.id, none)} for item in found])
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


@image.command("ls")
@_as_json
@click.pass_obj
def list_images(store: Store, as_json: bool) -> None:
    """List the images in the store."""
    images = store.images()
    if as_json:
        _print_json([_summary(item) for item in images])
        return
    rows = table("TAG", "IMAGE ID", "CREATED", "PLATFORM", ">LAYERS", ">SIZE")
    for item in images:
        for tag in item.tags or ("(none)",):
            row = (
                tag,
                item.short_id,
                _plain(item.created[:19]),
                _plain(item.platform),
                str(len(item.layers)),
                _size(item.size),
            )
            rows.add_row(*row)
    print_table(rows)


@image.command()
@click.argument("reference", metavar="IMAGE")
@_as_json
@click.pass_obj
def inspect(store: Store, reference: str, as_json: bool) -> None:
    """Show the configuration and the layers of IMAGE: a tag, an id, or the start of an id.

    Layers are listed from the base up. The path of each is a directory that a union takes as a lowerdir.
    """
    item = store.image(reference)
    if as_json:
        _print_json(_details(item))
        return
    for label, value in _facts(item):
        click.echo(f"{label + ':' if label else '':14}{_plain(value)}".rstrip())
    click.echo()
    rows = table("#", "DIFF ID", ">FILES", ">SIZE", "WHITEOUTS", "DIRECTORY")
    for number, layer in enumerate(item.layers):
        report = layer.report
        marks = f"{report.whiteouts}" + (f" + {report.opaques} opaque" if report.opaques else "")
        rows.add_row(str(number), layer.short_id, str(layer.files), _size(layer.size), marks, str(layer.path))
    print_table(rows)


def _facts(item: Image) -> Iterator[tuple[str, str]]:
    config = item.config
    yield "Id", item.id
    yield "Tags", " ".join(item.tags) or "(none)"
    yield "Created", item.created or "(unknown)"
    yield "Platform", item.platform
    yield "Size", _size(item.size)
    for key in ("Entrypoint", "Cmd"):
        yield key, json.dumps(config.run_list(key)) if config.run_list(key) else ""
    yield "User", config.run_text("User") or "(root)"
    yield "Workdir", config.run_text("WorkingDir") or "/"
    for number, variable in enumerate(config.run_list("Env")):
        yield "" if number else "Env", variable


@image.command()
@click.argument("reference", metavar="IMAGE")
@_as_json
@click.pass_obj
def history(store: Store, reference: str, as_json: bool) -> None:
    """Show how IMAGE was built: each step, newest first, and the layer it made.

    Steps such as ENV and CMD changed only the configuration and made no layer.
    """
    entries = list(reversed(store.image(reference).history))
    if as_json:
        _print_json(
            [
                {
                    "Created": entry.step.created,
                    "CreatedBy": entry.step.created_by,
                    "Comment": entry.step.comment,
                    "EmptyLayer": entry.layer is None,
                    "Layer": _layer(entry.layer) if entry.layer else None,
                }
                for entry in entries
            ]
        )
        return
    rows = table("LAYER", "CREATED", ">SIZE", "CREATED BY")
    for entry in entries:
        layer = entry.layer
        made = (layer.short_id, _size(layer.size)) if layer else ("-", "0 B")
        said = "  # ".join(filter(None, (entry.step.created_by, entry.step.comment))) or "(no record)"
        rows.add_row(made[0], _plain(entry.step.created[:19]), made[1], _plain(said))
    print_table(rows)


@image.command()
@click.argument("reference", metavar="IMAGE")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@_as_json
@click.pass_obj
def extract(store: Store, reference: str, directory: Path, as_json: bool) -> None:
    """Unpack each layer of IMAGE into a directory of its own below DIRECTORY.

    00-... is the base. Deletions are overlayfs whiteouts (character devices 0:0), so the directories can be
    mounted as they are, the top one leftmost.
    """
    paths = store.extract(store.image(reference), directory)
    if as_json:
        _print_json([str(path) for path in paths])
        return
    for path in paths:
        click.echo(path)


@image.command()
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


@image.command()
@click.argument("references", metavar="[IMAGE...]", nargs=-1)
@click.pass_obj
def verify(store: Store, references: tuple[str, ...]) -> None:
    """Read all that is stored of images, or of all images, and compare the digests.

    Exit code 1 if anything is damaged; what is said then is loaded again by 'image load'.
    """
    images = [store.image(reference) for reference in references] or store.images()
    damaged = 0
    for item in images:
        wrong = store.verify(item)
        name = item.tags[0] if item.tags else item.short_id
        click.echo(f"{name}  {'damaged' if wrong else 'sound'}")
        for line in wrong:
            click.echo(f"  {line}")
        damaged += bool(wrong)
    sys.exit(1 if damaged else 0)


@image.command()
@click.pass_obj
def prune(store: Store) -> None:
    """Remove the images that have neither a tag nor a container, and the layers that only they have."""
    for item in store.prune():
        for image_id in item.images:
            click.echo(f"removed  {image_id}")


@image.command("import")
@click.option("--message", "-m", default="", help="A comment for the history.")
@click.argument("tar", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("name", metavar="[NAME[:TAG]]", required=False)
@click.pass_obj
def import_(store: Store, message: str, tar: Path, name: str | None) -> None:
    """Make an image of TAR, which holds a root directory: plain or compressed, as `docker export` writes it."""
    from pyunionfs.image.rootfs import import_rootfs

    made = import_rootfs(store, tar, tag=name, message=message, epoch=source_date_epoch())
    click.echo(made.id)


@image.command()
@click.argument("reference", metavar="IMAGE")
@click.argument("name", metavar="NAME[:TAG]")
@click.pass_obj
def tag(store: Store, reference: str, name: str) -> None:
    """Give IMAGE one more name; an image that had it loses it."""
    store.tag(reference, name)


@image.command()
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
@_as_json
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
    from pyunionfs.container.commit import commit as make

    base = store.image(reference)
    made = make(store, base, upper, tag=name, message=message, author=author, instructions=instructions)
    if as_json:
        _print_json(_summary(made))
        return
    click.echo(made.id)


@image.command()
@click.argument("references", metavar="IMAGE...", nargs=-1, required=True)
@_as_json
@click.pass_obj
def rm(store: Store, references: tuple[str, ...], as_json: bool) -> None:
    """Remove images, and the layers that no other image has.

    A tag of several is only taken off; the last one removes the image. An id removes it with all its tags.
    """
    removed = [store.remove(reference) for reference in references]
    if as_json:
        _print_json([{"Tags": r.tags, "Images": r.images, "Layers": r.layers} for r in removed])
        return
    for item in removed:
        for name in item.tags:
            click.echo(f"untagged {name}")
        for image_id in item.images:
            click.echo(f"removed  {image_id}")
        for diff_id in item.layers:
            click.echo(f"removed  layer {diff_id}")


# -- printing


def _size(count: int) -> str:
    """Bytes for people, in powers of 1000 as docker prints them."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _plain(text: str) -> str:
    """Text of an archive, on one line, and unable to control the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def _layer(layer: Layer) -> dict[str, Any]:
    report = layer.report
    return {
        "DiffId": layer.diff_id,
        "Size": layer.size,
        "Files": layer.files,
        "Whiteouts": report.whiteouts,
        "Opaques": report.opaques,
        "Path": str(layer.path),
        "Remarks": {what: remark.count for what, remark in report.remarks.items()},
    }


def _summary(item: Image) -> dict[str, Any]:
    return {
        "Id": item.id,
        "RepoTags": list(item.tags),
        "Created": item.created,
        "Architecture": item.config.text("architecture"),
        "Os": item.config.text("os"),
        "Size": item.size,
        "Layers": len(item.layers),
    }


def _details(item: Image) -> dict[str, Any]:
    return _summary(item) | {
        "Author": item.config.text("author"),
        "Config": item.config.run,
        "RootFS": {"Type": "layers", "Layers": [layer.diff_id for layer in item.layers]},
        "Layers": [_layer(layer) for layer in item.layers],
        "LowerDirs": [str(path) for path in item.lowerdirs],
    }
