"""What an upper directory changes, as the members of an OCI layer.

The upper directory says which names matter, the merged view what they are: so a metacopy has its data, and a
directory that was moved by a redirect, which a tar cannot express, is there as a whole. What is not in the upper
directory is not looked at. Source: OCI image-spec layer.md; overlayfs.rst, "redirect_dir", "metadata only copy up".
"""

import stat
from collections.abc import Iterator

from ..image.pack import OPAQUE, PackedMember
from ..overlay.fs import Overlay
from ..overlay.marks import OPAQUE_YES
from ..overlay.readdir import entries
from ..vfs import ROOT, Attr, Ino
from ..views.union import Union
from .members import Members


def changes(union: Union, *, latest: int | None = None) -> Iterator[PackedMember]:
    """The members of the layer, each directory before what is in it, names in the order of their bytes.

    ``latest`` is a time in seconds that no member's exceeds (SOURCE_DATE_EPOCH). Raises OSError.
    """
    with union.open() as merged:
        if not union.lower:
            yield from _Walk(merged, None, latest).directory(b"", ROOT, None)
            return
        with union.open_lower() as below:
            yield from _Walk(merged, below, latest).directory(b"", ROOT, ROOT)


class _Walk:
    """Holds both views. Lookups are held until the views are closed."""

    def __init__(self, merged: Overlay, below: Overlay | None, latest: int | None) -> None:
        self._merged = merged
        self._below = below
        self._members = Members(merged, latest)

    def directory(self, path: bytes, ino: Ino, below: Ino | None) -> Iterator[PackedMember]:
        """What the upper layer has in a directory; ``below`` is what the layers below have in its place."""
        inode = self._merged.sb.table[ino]
        upper = inode.lower[0]
        marks = self._merged.sb.marks
        moved = upper.find_xattr(marks.redirect) is not None
        if moved or upper.find_xattr(marks.opaque) == OPAQUE_YES:
            if below is not None:
                yield PackedMember.whiteout(path, OPAQUE)
            below = None
        if moved:  # and everything in it with it
            yield from self._everything(path, ino)
            return
        for name, _, hidden in sorted(entries(self._merged.sb, inode, upper)):
            old = self._find_below(below, name)
            if hidden:
                if old is not None:
                    yield PackedMember.whiteout(path, name)
                continue
            yield from self._object(path, ino, name, old)

    def _everything(self, path: bytes, ino: Ino) -> Iterator[PackedMember]:
        for entry in sorted(self._merged.readdir(ino)):
            attr = self._merged.lookup(ino, entry.name)
            where = path + b"/" + entry.name
            yield from self._members.of(where, attr)
            if stat.S_ISDIR(attr.mode):
                yield from self._everything(where, attr.ino)

    def _object(self, path: bytes, parent: Ino, name: bytes, old: Attr | None) -> Iterator[PackedMember]:
        attr = self._merged.lookup(parent, name)
        where = path + b"/" + name if path else name
        yield from self._members.of(where, attr)
        if stat.S_ISDIR(attr.mode):
            merges = old is not None and stat.S_ISDIR(old.mode)
            yield from self.directory(where, attr.ino, old.ino if old is not None and merges else None)

    def _find_below(self, directory: Ino | None, name: bytes) -> Attr | None:
        if self._below is None or directory is None:
            return None
        try:
            return self._below.lookup(directory, name)
        except FileNotFoundError:
            return None
