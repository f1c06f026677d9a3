"""In what one union differs from another: A added, C changed, D deleted, as between the layers of two images.

A directory counts as changed if anything in it is, and what was added or deleted is told of with all that is in it,
or as one. Objects that both unions have of the same layer are not looked at more closely.
"""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from ..image.layers import Layer, lowerdirs
from ..image.store import Store
from ..overlay.fs import Overlay
from ..overlay.marks import USER
from ..vfs import ROOT, Attr, Ino
from .union import Union

_BLOCK = 1 << 20
_SECOND = 10**9  # ns


class Difference(NamedTuple):
    """One object that is not the same."""

    path: bytes  # from the root, which is b".", without a slash before it
    kind: str  # "A", "C" or "D"
    attr: Attr | None  # in the new union


def compare(old: Overlay | None, new: Overlay) -> Iterator[Difference]:
    """The differences, each directory before what is in it, names in the order of their bytes; an ``old`` of None
    is empty. The root itself is compared by mode and owner, for a layer need not say more of it. What was looked up
    is held until the unions are closed. Raises OSError.
    """
    root = new.getattr(ROOT)
    if old is not None:
        before = old.getattr(ROOT)
        if (before.mode, before.uid, before.gid) != (root.mode, root.uid, root.gid):
            yield Difference(b".", "C", root)
    yield from _Pair(old, new).directory(b"", ROOT if old is not None else None, ROOT)


def options_of(store: Store) -> Mapping[str, str]:
    """How the layers of a store are mounted, and looked at: an ordinary user's have owners and modes in xattrs."""
    return {"xattr_permissions": "2"} if store.marks is USER else {}


def union_of(store: Store, layers: Sequence[Layer], upper: str | None = None) -> Union:
    """The union of some layers of a store, base first, and perhaps an upper directory."""
    paths = [str(layer.path) for layer in reversed(lowerdirs(layers))]
    return Union(paths, upper, store.marks is USER, options=options_of(store))


@contextmanager
def view(store: Store, layers: Sequence[Layer]) -> Iterator[Overlay | None]:
    """What some layers of a store show, base first; None if there are none."""
    if not layers:
        yield None
        return
    with union_of(store, layers).open() as overlay:
        yield overlay


class _Pair:
    def __init__(self, old: Overlay | None, new: Overlay) -> None:
        self._old = old
        self._new = new

    def directory(self, path: bytes, below: Ino | None, ino: Ino) -> Iterator[Difference]:
        old = self._names(self._old, below)
        new = self._names(self._new, ino)
        for name in sorted(old | new):
            where = path + b"/" + name if path else name
            if name not in new:
                yield Difference(where, "D", None)
                continue
            attr = self._new.lookup(ino, name)
            before = self._old.lookup(below, name) if self._old is not None and below and name in old else None
            yield from self._object(where, before, attr)

    def _object(self, path: bytes, before: Attr | None, attr: Attr) -> Iterator[Difference]:
        if not stat.S_ISDIR(attr.mode):
            if before is None or not self._same(before, attr):
                yield Difference(path, "C" if before else "A", attr)
            return
        below = before.ino if before is not None and stat.S_ISDIR(before.mode) else None
        inside = list(self.directory(path, below, attr.ino))
        if before is None or inside or not self._same(before, attr):
            yield Difference(path, "C" if before else "A", attr)
        yield from inside

    @staticmethod
    def _names(overlay: Overlay | None, ino: Ino | None) -> set[bytes]:
        if overlay is None or ino is None:
            return set()
        return {entry.name for entry in overlay.readdir(ino)}

    def _same(self, a: Attr, b: Attr) -> bool:
        """Whether two objects are the same in everything that a layer keeps; directories but for their names."""
        assert self._old is not None
        old, new = self._old.sb.table[a.ino], self._new.sb.table[b.ino]
        if not old.is_dir and os.path.samestat(old.real.stat(), new.real.stat()):
            return True
        if (a.mode, a.uid, a.gid, a.rdev) != (b.mode, b.uid, b.gid, b.rdev):
            return False
        if a.mtime_ns // _SECOND != b.mtime_ns // _SECOND:  # layers are written with whole seconds
            return False
        if _xattrs(self._old, a.ino) != _xattrs(self._new, b.ino):
            return False
        if stat.S_ISLNK(a.mode):
            return self._old.readlink(a.ino) == self._new.readlink(b.ino)
        return not stat.S_ISREG(a.mode) or (a.size == b.size and self._same_data(a, b))

    def _same_data(self, a: Attr, b: Attr) -> bool:
        assert self._old is not None
        one, two = bytearray(_BLOCK), bytearray(_BLOCK)
        for offset in range(0, a.size, _BLOCK):
            count = self._old.readinto(a.ino, offset, memoryview(one))
            if count != self._new.readinto(b.ino, offset, memoryview(two)) or one[:count] != two[:count]:
                return False
        return True


def _xattrs(overlay: Overlay, ino: Ino) -> dict[bytes, bytes]:
    return {name: overlay.getxattr(ino, name) for name in overlay.listxattr(ino)}
