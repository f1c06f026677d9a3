"""What an upper directory changes, as ``docker diff`` prints it: A added, C changed, D deleted.

As there, a directory is listed as changed if anything was added or deleted below it, or if its own mode,
owner or time of modification differs; not if it was merely copied up on the way to a changed file.
"""

import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

from ..overlay.fs import Overlay
from ..overlay.inode import Inode
from ..overlay.lookup import find
from ..overlay.marks import OPAQUE_YES
from ..overlay.readdir import entries, readdir
from .union import Union

_DEEPEST = 20_000  # calls: some for each level of a tree


class Change(NamedTuple):
    """One line of a diff."""

    path: str  # from the root of the union, beginning with "/"
    kind: str  # "A", "C" or "D"


def diff(union: Union) -> list[Change]:
    """All changes of the upper directory over the lower layers, sorted by path."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), _DEEPEST))
    with Overlay([union.upper or ""], options={"userxattr": union.userxattr}) as upper:
        if not union.lower:
            return sorted(_walk(upper, upper.root, None, None, b""))
        with union.open_lower() as lower:
            return sorted(_walk(upper, upper.root, lower, lower.root, b""))


def _walk(upper: Overlay, here: Inode, lower: Overlay | None, below: Inode | None, path: bytes) -> Iterator[Change]:
    """Changes inside one upper directory; ``below`` is what the lower layers have in its place."""
    directory = here.lower[0]
    opaque = directory.find_xattr(upper.sb.marks.opaque) == OPAQUE_YES
    if opaque and lower is not None and below is not None:
        kept = {name for name, _, hidden in entries(upper.sb, here, directory) if not hidden}
        for entry in readdir(lower.sb, below):
            if entry.name not in kept:
                yield Change(_show(path, entry.name), "D")
    for name, _, hidden in sorted(entries(upper.sb, here, directory)):
        old = find(lower.sb, below, name) if lower is not None and below is not None else None
        if hidden:
            if old is not None or lower is None:
                yield Change(_show(path, name), "D")
            continue
        new = find(upper.sb, here, name)
        assert new is not None
        old_dir = old if old is not None and old.is_dir else None
        inside: list[Change] = []
        if new.is_dir:
            inside = list(_walk(upper, new, lower, old_dir, path + b"/" + name))
        if old is None and (lower is not None or not _was_copied(upper, new)):
            yield Change(_show(path, name), "A")
        elif old is None or not new.is_dir or old_dir is None or _touched(inside, new, old):
            yield Change(_show(path, name), "C")
        yield from inside


def _touched(inside: list[Change], new: Inode, old: Inode) -> bool:
    """Whether a directory counts as changed itself."""
    if any(change.kind != "C" for change in inside):
        return True
    a, b = new.lower[0].stat(), old.real.stat()
    return (a.st_mode, a.st_uid, a.st_gid, a.st_mtime_ns) != (b.st_mode, b.st_uid, b.st_gid, b.st_mtime_ns)


def _was_copied(upper: Overlay, new: Inode) -> bool:
    """Without lower layers to compare with: an object that was copied up has an origin."""
    return new.lower[0].find_xattr(upper.sb.marks.origin) is not None


def _show(path: bytes, name: bytes) -> str:
    return os.fsdecode(path + b"/" + name)
