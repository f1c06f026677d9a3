"""The merged view of a union in process, as the snapshot that ``trees.snapshot`` takes of a mounted one."""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import replace

import trees
from trees import Entry, Snapshot

from pyunionfs import Overlay
from pyunionfs.vfs import ROOT, Attr, Ino

_CHUNK = 1 << 20


def view(overlay: Overlay) -> Snapshot:
    """Describe every object of the union; no lookup count is kept."""
    found: Snapshot = {}
    links: dict[int, list[bytes]] = {}
    for path, attr in _walk(overlay, ROOT, b"."):
        found[path] = _describe(overlay, attr)
        if not stat.S_ISDIR(attr.mode):
            links.setdefault(attr.st_ino, []).append(path)
    for names in links.values():
        if len(names) > 1:
            for name in names:
                found[name] = replace(found[name], links=tuple(sorted(names)))
    return found


def _walk(overlay: Overlay, ino: Ino, path: bytes) -> Iterator[tuple[bytes, Attr]]:
    yield path, overlay.getattr(ino)
    for entry in overlay.readdir(ino):
        below = entry.name if path == b"." else path + b"/" + entry.name
        attr = overlay.lookup(ino, entry.name)
        assert stat.S_IFMT(attr.mode) == entry.type, f"{below!r} is listed as another type"
        try:
            if stat.S_ISDIR(attr.mode):
                yield from _walk(overlay, attr.ino, below)
            else:
                yield below, attr
        finally:
            overlay.forget(attr.ino, 1)


def _describe(overlay: Overlay, attr: Attr) -> Entry:
    kind = trees.TYPES[stat.S_IFMT(attr.mode)]
    data = None
    if kind == "file":
        data = hashlib.sha256(_content(overlay, attr.ino)).hexdigest()[:16]
    elif kind == "symlink":
        data = os.fsdecode(overlay.readlink(attr.ino))
    return Entry(
        type=kind,
        mode=stat.S_IMODE(attr.mode),
        uid=attr.uid,
        gid=attr.gid,
        size=attr.size if kind in ("file", "symlink") else None,
        data=data,
        rdev=attr.rdev if kind in ("chardev", "blockdev") else None,
        mtime_ns=trees.kept_time(attr.mtime_ns),
        xattrs=tuple(
            (name, overlay.getxattr(attr.ino, name))
            for name in sorted(overlay.listxattr(attr.ino))
            if trees.is_of_users(name)
        ),
    )


def _content(overlay: Overlay, ino: Ino) -> bytes:
    chunks = []
    while chunk := overlay.read(ino, sum(map(len, chunks)), _CHUNK):
        chunks.append(chunk)
    return b"".join(chunks)
