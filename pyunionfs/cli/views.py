"""``explain`` and ``diff``."""

import errno
import os
from dataclasses import asdict

import click

from ..spec import split_lower
from ..transport import mount as system
from ..views.union import Union, relative
from .text import json_option, print_json, printable

_lower = click.option("--lower", metavar="A[:B...]", help="The lower layers of a union that is not mounted.")
_userxattr = click.option("--userxattr", is_flag=True, help="Its marks are in user.overlay.*.")


def _mounted(path: str) -> tuple[Union, str] | None:
    """The union that a path lies in, and its mount point."""
    found = system.containing(path)
    if found is None:
        return None
    if found.state != "live":
        raise OSError(errno.ENOTCONN, f"the mount at {found.mountpoint} is {found.state}")
    return Union.of_mount(found.info), found.mountpoint


@click.command()
@_lower
@click.option("--upper", metavar="DIR", help="The upper directory of a union that is not mounted.")
@_userxattr
@json_option
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
def explain(lower: str | None, upper: str | None, userxattr: bool, as_json: bool, paths: tuple[str, ...]) -> None:
    """Tell why a union shows what it shows at PATH.

    For each layer from the top: what it has under that name, and which rule made of it what; then which layer
    answers, and what writing to it or deleting it would do. PATH is below a mount point, or, with --lower (and
    --upper), relative to the root of a union that is not mounted.
    """
    from ..views import explain as view

    answers = []
    for path in paths:
        if lower is not None:
            layers, data = split_lower(lower)
            union, inside = Union(layers, upper, userxattr, data), os.fsencode(path.strip("/"))
        else:
            found = _mounted(path)
            if found is None:
                raise OSError(errno.EINVAL, f"{path} is on no mount of pyunionfs; say which layers by --lower")
            union, inside = found[0], relative(path, found[1])
        answers.append(view.explain(union, inside))
    if as_json:
        print_json([asdict(answer) for answer in answers])
        return
    for answer in answers:
        click.echo(printable(answer.path) + ("" if answer.exists else "  (does not exist)"))
        width = max(len(row.layer) for row in answer.rows)
        seen = max(len(printable(row.found)) for row in answer.rows)
        for row in answer.rows:
            mark = "*" if row.provides else " "
            rule = f"rule {row.rule}: " if row.rule else ""
            click.echo(f"  {mark} {row.layer:<{width}}  {printable(row.found):<{seen}}  {rule}{row.why}")
        if answer.provider:
            click.echo(f"  provided by: {answer.provider}")
        click.echo(f"  a write:     {answer.on_write}")
        click.echo(f"  a deletion:  {answer.on_delete}")


def _container(name: str) -> Union:
    from ..image.errors import ImageError
    from .container import union_of

    try:
        return union_of(name)
    except ImageError:
        raise OSError(errno.ENOTDIR, f"{name} is not a directory, and no container") from None


@click.command()
@_lower
@_userxattr
@json_option
@click.argument("where", metavar="UPPER|MOUNTPOINT|CONTAINER")
def diff(lower: str | None, userxattr: bool, as_json: bool, where: str) -> None:
    """List what an upper directory changes: A added, C changed, D deleted, as 'docker diff' does.

    Of a MOUNTPOINT or a CONTAINER the layers are known. For an UPPER directory that is not mounted, name them by
    --lower; without them a file that replaces a deleted one cannot be told from a new one, and is listed as added.
    """
    from ..views import diff as view

    found = None if lower is not None else _mounted(where)
    if found is not None and os.path.realpath(where) == found[1]:
        union = found[0]
        if union.upper is None:
            raise OSError(errno.EINVAL, f"the union at {where} is read-only: it has no upper directory")
    else:
        layers, data = split_lower(lower) if lower else ([], [])
        union = Union(layers, where, userxattr, data) if os.path.isdir(where) else _container(where)
    changes = view.diff(union)
    if as_json:
        print_json([{"path": change.path, "kind": change.kind} for change in changes])
        return
    for change in changes:
        click.echo(f"{change.kind} {printable(change.path)}")
