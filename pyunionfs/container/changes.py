"""What an upper directory changes, as the members of an OCI layer.

The upper directory says which names matter, the merged view what they are: so a metacopy has its data, and a
directory that was moved by a redirect, which a tar cannot express, is there as a whole. What is not in the upper
directory is not looked at. Source: OCI image-spec layer.md; overlayfs.rst, "redirect_dir", "metadata only copy up".
"""

import errno
import io
import os
import stat
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from ..image.pack import OPAQUE, WHITEOUT, PackedMember
from ..overlay.fs import Overlay
from ..overlay.marks import OPAQUE_YES
from ..overlay.readdir import entries
from ..vfs import ROOT, Attr, Ino
from ..views.union import Union

_BLOCK = 1 << 20
_CAPABILITY = b"security.capability"


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
    """Holds both views, and what was seen of hard links. Lookups are held until the views are closed."""

    def __init__(self, merged: Overlay, below: Overlay | None, latest: int | None) -> None:
        self._merged = merged
        self._below = below
        self._latest = latest
        self._links: dict[int, bytes] = {}  # by the number that people see: the first name

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
            yield from self._member(where, attr)
            if stat.S_ISDIR(attr.mode):
                yield from self._everything(where, attr.ino)

    def _object(self, path: bytes, parent: Ino, name: bytes, old: Attr | None) -> Iterator[PackedMember]:
        attr = self._merged.lookup(parent, name)
        where = path + b"/" + name if path else name
        yield from self._member(where, attr)
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

    def _member(self, path: bytes, attr: Attr) -> Iterator[PackedMember]:
        if stat.S_ISSOCK(attr.mode):  # tar has none, and nobody listens to it
            return
        if os.path.basename(path).startswith(WHITEOUT):
            raise OSError(errno.EINVAL, "a layer cannot hold this name, which would hide another", path)
        mtime = attr.mtime_ns // 10**9
        has_others = attr.nlink > 1 and not stat.S_ISDIR(attr.mode)
        first = self._links.setdefault(attr.st_ino, path) if has_others else path
        is_link = first != path
        is_file = stat.S_ISREG(attr.mode) and not is_link
        yield PackedMember(
            path=path,
            mode=attr.mode,
            uid=attr.uid,
            gid=attr.gid,
            mtime=mtime if self._latest is None else min(mtime, self._latest),
            size=attr.size if is_file else 0,
            link=first if is_link else self._merged.readlink(attr.ino) if stat.S_ISLNK(attr.mode) else b"",
            is_hard_link=is_link,
            device=(os.major(attr.rdev), os.minor(attr.rdev)),
            capability=self._capability(attr.ino) if is_file else b"",
            open=partial(_open, self._merged, attr.ino) if is_file else None,
        )

    def _capability(self, ino: Ino) -> bytes:
        return self._merged.getxattr(ino, _CAPABILITY) if _CAPABILITY in self._merged.listxattr(ino) else b""


def _open(overlay: Overlay, ino: Ino) -> BinaryIO:
    return io.BufferedReader(_Reader(overlay, ino), _BLOCK)


class _Reader(io.RawIOBase):
    """The data of a file of a union, from its first byte."""

    def __init__(self, overlay: Overlay, ino: Ino) -> None:
        self._overlay = overlay
        self._ino = ino
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = self._overlay.readinto(self._ino, self._position, memoryview(buffer))
        self._position += count
        return count
