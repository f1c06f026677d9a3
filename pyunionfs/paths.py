"""Calls by path on any ``vfs.Operations``: a union used in process, with no mount and no FUSE.

Names as in ``os`` and ``pathlib``. Paths are relative to the root of the filesystem and may not contain
``..``; symlinks are not followed, as their targets would be paths of the mounted tree.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .vfs import ROOT, Attr, Caller, Ino, Operations, SetAttr

PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]
_CHUNK = 1 << 20


class Paths:
    """The files of a filesystem, by path, acting as the user of this process.

    Every method raises the OSError of the operation, as ``os`` would.
    """

    def __init__(self, operations: Operations) -> None:
        self._ops = operations

    @property
    def _caller(self) -> Caller:
        return Caller(os.geteuid(), os.getegid())

    @contextmanager
    def _at(self, path: PathLike) -> Iterator[Attr]:
        """The attributes of a path, whose inode is held for the length of the ``with``."""
        held: list[Ino] = []
        attr = self._ops.getattr(ROOT)
        try:
            for name in _split(path):
                attr = self._ops.lookup(attr.ino, name)
                held.append(attr.ino)
            yield attr
        finally:
            for ino in reversed(held):
                self._ops.forget(ino, 1)

    @contextmanager
    def _parent(self, path: PathLike) -> Iterator[tuple[Ino, bytes]]:
        *head, name = _split(path)
        with self._at(b"/".join(head)) as attr:
            yield attr.ino, name

    def _made(self, attr: Attr) -> None:
        self._ops.forget(attr.ino, 1)

    def stat(self, path: PathLike) -> Attr:
        """As lstat(2)."""
        with self._at(path) as attr:
            return attr

    def exists(self, path: PathLike) -> bool:
        try:
            self.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def listdir(self, path: PathLike = b"") -> list[bytes]:
        """The names in a directory, sorted."""
        with self._at(path) as attr:
            return sorted(entry.name for entry in self._ops.readdir(attr.ino))

    def walk(self, path: PathLike = b"") -> Iterator[tuple[bytes, Attr]]:
        """Every object below a directory, parents before their children, as ``(path, attributes)``."""
        prefix = b"/".join(_split(path))
        for name in self.listdir(path):
            below = prefix + b"/" + name if prefix else name
            attr = self.stat(below)
            yield below, attr
            if stat.S_ISDIR(attr.mode):
                yield from self.walk(below)

    def read_bytes(self, path: PathLike) -> bytes:
        with self._at(path) as attr:
            chunks = []
            offset = 0
            while data := self._ops.read(attr.ino, offset, _CHUNK):
                chunks.append(data)
                offset += len(data)
            return b"".join(chunks)

    def write_bytes(self, path: PathLike, data: bytes, *, mode: int = 0o644) -> None:
        """Make or empty a regular file and write to it."""
        with self._parent(path) as (parent, name):
            try:
                attr = self._ops.lookup(parent, name)
                self._ops.open(attr.ino, os.O_WRONLY | os.O_TRUNC, self._caller)
            except FileNotFoundError:
                attr = self._ops.create(parent, name, mode, self._caller)
            try:
                offset = 0
                while offset < len(data):
                    chunk = data[offset : offset + _CHUNK]
                    offset += self._ops.write(attr.ino, offset, chunk, kill_suid=False)
            finally:
                self._ops.release(attr.ino)
                self._ops.forget(attr.ino, 1)

    def mkdir(self, path: PathLike, *, mode: int = 0o755) -> None:
        with self._parent(path) as (parent, name):
            self._made(self._ops.mkdir(parent, name, mode, self._caller))

    def symlink(self, target: PathLike, path: PathLike) -> None:
        with self._parent(path) as (parent, name):
            self._made(self._ops.symlink(parent, name, os.fsencode(target), self._caller))

    def readlink(self, path: PathLike) -> bytes:
        with self._at(path) as attr:
            return self._ops.readlink(attr.ino)

    def link(self, source: PathLike, path: PathLike) -> None:
        with self._at(source) as attr, self._parent(path) as (parent, name):
            self._made(self._ops.link(attr.ino, parent, name))

    def unlink(self, path: PathLike) -> None:
        with self._at(path), self._parent(path) as (parent, name):
            self._ops.unlink(parent, name)

    def rmdir(self, path: PathLike) -> None:
        with self._at(path), self._parent(path) as (parent, name):
            self._ops.rmdir(parent, name)

    def rename(self, path: PathLike, new_path: PathLike, *, flags: int = 0) -> None:
        """``flags`` are those of renameat2(2)."""
        with ExitStack() as held:  # what is there too, as a kernel does: operations count on it
            held.enter_context(self._at(path))
            if self.exists(new_path):
                held.enter_context(self._at(new_path))
            parent, name = held.enter_context(self._parent(path))
            new_parent, new_name = held.enter_context(self._parent(new_path))
            self._ops.rename(parent, name, new_parent, new_name, flags)

    def chmod(self, path: PathLike, mode: int) -> None:
        with self._at(path) as attr:
            self._ops.setattr(attr.ino, SetAttr(mode=mode), self._caller)

    def truncate(self, path: PathLike, size: int) -> None:
        with self._at(path) as attr:
            self._ops.setattr(attr.ino, SetAttr(size=size), self._caller)


def _split(path: PathLike) -> list[bytes]:
    names = [name for name in os.fsencode(path).split(b"/") if name not in (b"", b".")]
    if b".." in names:
        raise ValueError(f"{os.fsdecode(path)}: '..' is not followed here")
    return names
