"""What the crash and fault tests work on: the same layers each time, and single requests by path.

All cases start from these layers, on which some changes have been made and acknowledged already: a copied-up file,
deleted names, new objects.
"""

import os
import shutil
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mounts import Layers
from ordinary import as_who_began
from syscalls import GROUP, USER
from trees import Dir, Fifo, File, HardLink, Node, Symlink, build

from pyunionfs import Overlay, Paths
from pyunionfs.vfs import Caller, Extent, SetAttr

Options = Mapping[str, str | bool]


def _acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as its xattr holds it: version 2, then (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


_NOBODY = 0xFFFFFFFF
DEFAULT_ACL = _acl(
    (1, 7, _NOBODY), (2, 5, USER), (4, 5, _NOBODY), (16, 5, _NOBODY), (32, 0, _NOBODY)
)  # user::rwx user:USER:r-x group::r-x mask::r-x other::---

TOP: dict[str | bytes, Node] = {
    "file": File("lower file", 0o640, xattrs={"user.kept": b"1"}),
    "dir": {"top": "1", "both": "top"},
}
BASE: dict[str | bytes, Node] = {
    "dir": Dir({"both": "base", "one": "1", "sub": {"x": "x"}}, xattrs={"user.kept": b"1"}),
    "deep": {"a": {"b": {"file": "deep file"}}},
    "hole": File("data", holes=((8192, 1 << 16),)),
    "symlink": Symlink("file"),
    "fifo": Fifo(),
    "twin": "two names",
    "twin-too": HardLink("twin"),
    "one-child": {"child": "x"},
    "empty": {},
    "acl": Dir({}, xattrs={"system.posix_acl_default": DEFAULT_ACL}),
    "closed": Dir({"file": "in a closed directory", "sub": Dir({}, 0o555)}, 0o555),
    "gone": "deleted",
    "gone-dir": {"x": "deleted"},
    "copied": "copied up",
}

OTHER = Caller(USER, GROUP, umask=0o027)


def me() -> Caller:
    """Whoever asks is whoever the daemon is."""
    return Caller(os.geteuid(), os.getegid())


class Files(Paths):
    """:class:`Paths` for anybody, one changing request a call."""

    def __init__(self, overlay: Overlay) -> None:
        super().__init__(overlay)
        self.overlay = overlay

    def create(self, path: str, mode: int = 0o644, caller: Caller | None = None) -> None:
        with self._parent(path) as (parent, name):
            attr = self._ops.create(parent, name, mode, caller or me())
            self._ops.release(attr.ino)
            self._made(attr)

    def mkdir(self, path: str, mode: int = 0o755, caller: Caller | None = None) -> None:
        with self._parent(path) as (parent, name):
            self._made(self._ops.mkdir(parent, name, mode, caller or me()))

    def symlink_by(self, path: str, mode: int = 0, caller: Caller | None = None) -> None:
        with self._parent(path) as (parent, name):
            self._made(self._ops.symlink(parent, name, b"target", caller or me()))

    def mkfifo(self, path: str, mode: int = 0o644, caller: Caller | None = None) -> None:
        with self._parent(path) as (parent, name):
            self._made(self._ops.mknod(parent, name, stat.S_IFIFO | mode, 0, caller or me()))

    def setattr(self, path: str, *, caller: Caller | None = None, **changes: int) -> None:
        with self._at(path) as attr:
            self._ops.setattr(attr.ino, SetAttr(**changes), caller or me())

    def open(self, path: str, flags: int) -> None:
        with self._at(path) as attr:
            self._ops.open(attr.ino, flags, me())
            self._ops.release(attr.ino)

    def write(self, path: str, offset: int, data: bytes, *, kill_suid: bool = False, sync: bool = False) -> None:
        with self._at(path) as attr:
            self._ops.write(attr.ino, offset, data, kill_suid=kill_suid, sync=sync)

    def fsync(self, path: str, *, data_only: bool = False) -> None:
        with self._at(path) as attr:
            self._ops.fsync(attr.ino, data_only=data_only)

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        with self._at(path) as attr:
            self._ops.setxattr(attr.ino, name.encode(), value, 0)

    def removexattr(self, path: str, name: str) -> None:
        with self._at(path) as attr:
            self._ops.removexattr(attr.ino, name.encode())

    def allocate(self, path: str, mode: int, offset: int, length: int) -> None:
        with self._at(path) as attr:
            self._ops.fallocate(Extent(attr.ino, offset, length), mode, kill_suid=False)

    def copy_range(self, source: str, target: str, length: int) -> None:
        with self._at(source) as one, self._at(target) as two:
            self._ops.copy_file_range(Extent(one.ino, 0, length), two.ino, 2, kill_suid=False)

    def name_unnamed(self, path: str) -> None:
        """O_TMPFILE, and then a name for it."""
        with self._parent(path) as (parent, name):
            attr = self._ops.tmpfile(parent, 0o640, me())
            self._made(self._ops.link(attr.ino, parent, name))
            self._made(attr)

    def hold(self, path: str) -> None:
        """Look a path up and keep it, as a program that has it open."""
        with self._parent(path) as (parent, name):
            self._held = self._ops.lookup(parent, name).ino

    def write_held(self, offset: int, data: bytes) -> None:
        self._ops.write(self._held, offset, data, kill_suid=False)


def acknowledged(files: Files) -> None:
    """Changes that had been made, and in part synced, before the operation began."""
    files.create("acked")
    files.write("acked", 0, b"acknowledged")
    files.fsync("acked")
    files.unlink("gone")
    files.unlink("gone-dir/x")
    files.rmdir("gone-dir")
    files.write("copied", 9, b", then changed")
    files.mkdir("made")
    files.create("made/in")
    files.mkdir("spare")


@contextmanager
def fresh_layers(root: Path) -> Iterator[Layers]:
    """The layers that every case starts from, for the length of a ``with``: they belong to who works on them."""
    owner = os.geteuid(), os.getegid()
    with as_who_began():
        layers = Layers.create(root, lowers=2)
        build(layers.lower[0], TOP)
        build(layers.lower[1], BASE)
        for path in (root, *root.rglob("*")):
            os.chown(path, *owner, follow_symlinks=False)
    try:
        yield layers
    finally:
        with as_who_began():  # what is closed to its owner is not to root
            shutil.rmtree(root)


@contextmanager
def working_union(layers: Layers, options: Options, prepare: Callable[[Files], None]) -> Iterator[Files]:
    """A union that was mounted before and is mounted anew, ready for the operation of a case."""
    with union_of(layers, options) as overlay:
        acknowledged(Files(overlay))
    with union_of(layers, options) as overlay:
        files = Files(overlay)
        prepare(files)
        yield files


def union_of(layers: Layers, options: Options) -> Overlay:
    return Overlay(layers.lower, layers.upper, layers.work, options=options)
