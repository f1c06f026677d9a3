"""What requests are answered with: values of ``vfs`` as bytes of the protocol.

The union changes only through us, so the kernel may keep what it is told for ever (:data:`FOREVER`); where we know
better, the session takes it back.
"""

import os
import stat
from collections.abc import Iterable

from ...vfs import FIRST, Attr, DirEntry, Statfs
from . import abi

FOREVER = 1 << 40  # seconds
_BLKSIZE = 4096
_G = 10**9
_DIRENT_ALIGN = 8
_PADDING = [bytes(size) for size in range(_DIRENT_ALIGN)]
_UNKNOWN_INO = (1 << 32) - 1  # as libfuse's FUSE_UNKNOWN_INO
_NO_ENTRY = bytes(abi.ENTRY_OUT.size)
_TIME_MASK = (1 << 64) - 1  # times before 1970 are negative, in fields without a sign

NEGATIVE = abi.ENTRY_OUT.pack(0, 0, FOREVER, *[0] * 19)
"""There is no such name, and there will be none that we do not make."""


def _fields(attr: Attr) -> tuple[int, ...]:
    """struct fuse_attr."""
    atime, atime_ns = divmod(attr.atime_ns, _G)
    mtime, mtime_ns = divmod(attr.mtime_ns, _G)
    ctime, ctime_ns = divmod(attr.ctime_ns, _G)
    if atime < 0 or mtime < 0:
        atime, mtime, ctime = atime & _TIME_MASK, mtime & _TIME_MASK, ctime & _TIME_MASK
    return (
        attr.st_ino,
        attr.size,
        attr.blocks,
        atime,
        mtime,
        ctime,
        atime_ns,
        mtime_ns,
        ctime_ns,
        attr.mode,
        attr.nlink,
        attr.uid,
        attr.gid,
        _rdev(attr.rdev),
        _BLKSIZE,
        0,
    )


def _rdev(rdev: int) -> int:
    """new_encode_dev of the kernel: 12 bits of major, 20 of minor."""
    if not rdev:
        return 0
    major, minor = os.major(rdev), os.minor(rdev)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def attributes(attr: Attr) -> bytes:
    """To GETATTR and SETATTR."""
    return abi.ATTR_OUT.pack(FOREVER, 0, 0, *_fields(attr))


def entry(attr: Attr) -> bytes:
    """To LOOKUP and whatever makes a name."""
    return abi.ENTRY_OUT.pack(attr.ino, 0, FOREVER, FOREVER, 0, 0, *_fields(attr))


def statx(attr: Attr, birth_ns: int | None) -> bytes:
    """To STATX; the mask says whether the birth time is known."""
    mask = abi.STATX_BASIC_AND_BTIME if birth_ns is not None else abi.STATX_BASIC_AND_BTIME & ~0x800
    stamps = (attr.atime_ns, birth_ns or 0, attr.ctime_ns, attr.mtime_ns)
    times = [part for ns in stamps for part in (*divmod(ns, _G), 0)]
    return abi.STATX_OUT.pack(
        *(FOREVER, 0, 0, 0, 0),
        *(mask, _BLKSIZE, 0, attr.nlink, attr.uid, attr.gid, attr.mode, 0),
        *(attr.st_ino, attr.size, attr.blocks, 0),
        *times,
        *(os.major(attr.rdev), os.minor(attr.rdev), 0, 0),
    )


def statfs(st: Statfs) -> bytes:
    return abi.STATFS_OUT.pack(
        st.blocks, st.bfree, st.bavail, st.files, st.ffree, st.bsize, st.namemax, st.frsize, 0
    )


def dots(here: Attr, up: Attr, after: int) -> list[tuple[DirEntry, Attr]]:
    """The entries ``.`` and ``..``, as far as a listing has not passed them."""
    both = [(DirEntry(b".", stat.S_IFDIR, 1), here), (DirEntry(b"..", stat.S_IFDIR, FIRST), up)]
    return [item for item in both if item[0].position > after]


class Dirents:
    """The reply to READDIR or READDIRPLUS, filled until it is full."""

    def __init__(self, size: int, *, plus: bool) -> None:
        self._room = size
        self._plus = plus
        self._parts: list[bytes] = []

    def add(self, entry: DirEntry, attr: Attr | None, *, held: bool = True) -> bool:
        """False if it does not fit. One with a nodeid counts as a lookup; ``held`` says whether it was one."""
        name, kind, position, ino = entry
        head = abi.DIRENTPLUS.size if self._plus else abi.DIRENT.size
        padding = -(head + len(name)) % _DIRENT_ALIGN
        self._room -= head + len(name) + padding
        if self._room < 0:
            return False
        if attr is not None:
            ino = attr.st_ino
        elif not ino:
            ino = _UNKNOWN_INO
        if not self._plus:
            self._parts += (abi.DIRENT.pack(ino, position, len(name), kind >> 12), name, _PADDING[padding])
        elif attr is None or not held:
            dirent = abi.DIRENT.pack(ino, position, len(name), kind >> 12)
            self._parts += (_NO_ENTRY, dirent, name, _PADDING[padding])
        else:
            fields = _fields(attr)
            self._parts += (
                abi.DIRENTPLUS.pack(
                    *(attr.ino, 0, FOREVER, FOREVER, 0, 0), *fields, ino, position, len(name), attr.mode >> 12
                ),
                name,
                _PADDING[padding],
            )
        return True

    def encode(self) -> bytes:
        return b"".join(self._parts)


def names(found: Iterable[bytes]) -> bytes:
    """To LISTXATTR."""
    return b"".join(name + b"\0" for name in found)
