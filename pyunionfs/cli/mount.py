"""``mount``, ``umount`` and ``mounts``."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from .. import daemon
from ..spec import MountSpec, split_lower, split_options
from ..transport import mount as system
from ..transport import options as transport_options
from .text import json_option, print_json

Words = list[tuple[str, str | None]]


def _options(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> Words:
    """Parse repeated ``-o key=value,key``."""
    pairs = (word.partition("=") for word in split_options(",".join(values)))
    return [(name, value if equals else None) for name, equals, value in pairs]


def _take_directories(words: Words, lower: list[str], data: list[str]) -> dict[str, str | None]:
    """Take the kernel's ``lowerdir``, ``lowerdir+`` and ``datadir+`` out of the options; returns the others."""
    rest: dict[str, str | None] = {}
    whole = bool(lower)
    for name, value in words:
        if name not in ("lowerdir", "lowerdir+", "datadir+"):
            rest[name] = value
            continue
        if not value:
            raise OSError(errno.EINVAL, f"mount option {name} needs a directory")
        if name == "lowerdir":
            lower[:], data[:] = split_lower(value)
            whole = True
        elif whole:
            raise OSError(errno.EINVAL, f"mount option {name} cannot follow a whole list of layers")
        elif name == "lowerdir+" and data:
            raise OSError(errno.EINVAL, "a layer cannot follow a data-only layer")
        else:
            (lower if name == "lowerdir+" else data).append(value)
    return rest


@click.command()
@click.option(
    "--lower",
    metavar="A[:B...][::C...]",
    help="Read-only layers, the topmost first, and data-only ones after '::'; '\\:' is a colon in a path.",
)
@click.option("--image", metavar="ARCHIVE[#REPO:TAG]", help="Take the layers of a saved image instead.")
@click.option("--upper", metavar="DIR", help="Where changes go; without it the union is read-only.")
@click.option(
    "--work",
    metavar="DIR",
    help="An empty directory on the filesystem of the upper one, for building things aside. "
    "[default: a hidden sibling of the upper directory]",
)
@click.option(
    "-o",
    "options",
    metavar="KEY=VALUE,...",
    multiple=True,
    callback=_options,
    help="Mount options, by the kernel's names: redirect_dir=on, metacopy=on, index=on, userxattr, volatile, ... "
    "lowerdir+=DIR, datadir+=DIR, ro, nosuid, writeback=on (the README has them all).",
)
@click.option(
    "--transport",
    type=click.Choice(transport_options.VALUES["transport"]),
    help="How the kernel is served: devfuse speaks its protocol directly, pyfuse3 goes through libfuse. "
    "[default: devfuse where the kernel suits it]",
)
@click.option("--foreground", is_flag=True, help="Stay, and report on stderr what happens.")
@click.option(
    "--allow-other/--no-allow-other",
    default=None,
    help="Let other users in, under the usual permissions. [default: only if root mounts]",
)
@click.option("--log", "log_file", metavar="FILE", help="Report copy-ups, whiteouts and problems to a file.")
@click.option("--root", metavar="DIR", help="Where unpacked images are kept (with --image).")
@click.argument("mountpoint")
def mount(
    lower: str | None,
    image: str | None,
    upper: str | None,
    work: str | None,
    options: Words,
    transport: str | None,
    foreground: bool,
    allow_other: bool | None,
    log_file: str | None,
    root: str | None,
    mountpoint: str,
) -> None:
    """Show layers as one directory at MOUNTPOINT.

    A name is looked for from the top layer down, and the first layer that has it decides; directories of the
    same name are merged. The first write to a file of a lower layer copies it to the upper directory, and
    deleting one leaves a whiteout (a character device 0:0) there. The lower layers are never changed.

    The command returns when the mount answers; a daemon serves it until 'pyunionfs umount', SIGTERM or
    SIGINT. The directories are the kernel's own format: 'mount -t overlay' takes them too.

    \b
    Examples:
      pyunionfs mount --lower changes:base --upper mine --work scratch /mnt/m
      pyunionfs mount --lower base /mnt/m                      read-only
      docker save app:1 -o app.tar
      pyunionfs mount --image app.tar --upper mine /mnt/m
    """
    layers, data = split_lower(lower) if lower is not None else ([], [])
    rest = _take_directories(options, layers, data)
    upper, work = rest.pop("upperdir", None) or upper, rest.pop("workdir", None) or work
    if bool(layers) == (image is not None):
        raise click.UsageError("give the layers by --lower or by --image (one of them)")
    if work is not None and upper is None:
        raise click.UsageError("--work serves an upper directory: give --upper too")
    with _layers(layers, image, root) as (paths, userxattr):
        userxattrs = {"userxattr": "on"} if userxattr else {}
        spec = MountSpec(
            lower=paths,
            data=data,
            mountpoint=mountpoint,
            upper=upper,
            work=work,
            options={**userxattrs, **({} if transport is None else {"transport": transport}), **rest},
            allow_other=allow_other,
            image=image,
            log_file=log_file,
            foreground=foreground,
        )
        daemon.run(spec)


@contextmanager
def _layers(lower: list[str], image: str | None, root: str | None) -> Iterator[tuple[list[str], bool]]:
    """The layers to mount, top to bottom, and whether their marks are known to be user xattrs."""
    if image is None:
        yield lower, False
        return
    from .image.archives import held_for_mount

    with held_for_mount(image, root) as (paths, userxattr):
        yield [str(path) for path in paths], userxattr


@click.command()
@click.option("--lazy", is_flag=True, help="Detach it now, even if it is in use; it ends when nobody uses it.")
@click.argument("mountpoints", nargs=-1, required=True, metavar="MOUNTPOINT...")
def umount(lazy: bool, mountpoints: tuple[str, ...]) -> None:
    """Unmount, and wait until the daemon has ended.

    Also removes a mount whose daemon died ("Transport endpoint is not connected"). What was written stays in
    the upper directory.
    """
    for mountpoint in mountpoints:
        try:
            system.unmount(mountpoint, lazy=lazy)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise OSError(errno.EBUSY, f"{mountpoint} is in use (--lazy detaches it anyway)") from None
            raise


@click.command()
@json_option
def mounts(as_json: bool) -> None:
    """List what is mounted: mount point, state, daemon and layers.

    The state is 'live'; 'dead' if the daemon is gone ('pyunionfs umount' clears it); 'hidden' if it is another
    user's; 'stuck' if the daemon does not answer.
    """
    found = system.mounts()
    if as_json:
        rows = [{"mountpoint": item.mountpoint, "state": item.state, **item.info} for item in found]
        print_json(rows)
        return
    if not found:
        click.echo("nothing is mounted", err=True)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("MOUNTPOINT", "STATE", "PID", "LOWER (top first)", "UPPER", box=None, pad_edge=False)
    for item in found:
        lower = item.info.get("lower", [])
        shown = [str(path) for path in lower[:8]] + ([f"... {len(lower) - 8} more"] if len(lower) > 8 else [])
        upper = item.info.get("upper") or ("(read-only)" if item.state == "live" else "")
        table.add_row(item.mountpoint, item.state, str(item.pid or "-"), "\n".join(shown), str(upper))
    wide = max((len(line) for path in [*found] for line in [path.mountpoint]), default=0)
    console = Console(width=None if sys.stdout.isatty() else 100 + 3 * wide)
    console.print(table)


@click.command()
@click.argument("mountpoints", nargs=-1, required=True, metavar="MOUNTPOINT...")
def refresh(mountpoints: tuple[str, ...]) -> None:
    """Make visible what others have changed in the layers of a mount.

    A union takes its layers for unchanging and keeps what it has seen of them: a file that somebody adds to a
    lower layer, or replaces there, shows up when you refresh the mount. Files that are open stay open.
    """
    for mountpoint in mountpoints:
        system.refresh(mountpoint)


@click.command()
@click.argument("mountpoints", nargs=-1, required=True, metavar="MOUNTPOINT...")
def reexec(mountpoints: tuple[str, ...]) -> None:
    """Move a mount to the code that is installed now, after an upgrade.

    Programs that use the mount see a pause, and nothing of theirs is closed. The new code first shows that it can
    serve this mount; if it cannot, one line says why, and the mount stays as it is.
    """
    for mountpoint in mountpoints:
        old, new = system.reexec(mountpoint)
        click.echo(f"{mountpoint}: daemon {old['pid']} ({old['version']}) -> {new['pid']} ({new['version']})")
