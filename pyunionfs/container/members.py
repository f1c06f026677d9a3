"""What is in a union, as the members of a layer's tar."""

import errno
import io
import os
import stat
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from ..image.pack import WHITEOUT, PackedMember
from ..overlay.fs import Overlay
from ..vfs import Attr, Ino

_BLOCK = 1 << 20
_CAPABILITY = b"security.capability"


class Members:
    """Makes members of the objects of one union, and knows which names of a file it has had.

    ``latest`` is a time in seconds that no member's exceeds (SOURCE_DATE_EPOCH). Of the xattrs only capabilities
    are taken, as by docker and podman, or with ``every_xattr`` all.
    """

    def __init__(self, overlay: Overlay, latest: int | None, *, every_xattr: bool = False) -> None:
        self._overlay = overlay
        self._latest = latest
        self._every_xattr = every_xattr
        self._links: dict[int, bytes] = {}  # by the number that people see: the first name

    def of(self, path: bytes, attr: Attr) -> Iterator[PackedMember]:
        """One, or none for a socket: tar has none, and nobody listens to it. Raises OSError."""
        if stat.S_ISSOCK(attr.mode):
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
            link=first if is_link else self._overlay.readlink(attr.ino) if stat.S_ISLNK(attr.mode) else b"",
            is_hard_link=is_link,
            device=(os.major(attr.rdev), os.minor(attr.rdev)),
            xattrs={} if is_link else self._xattrs(attr.ino, attr.mode),
            open=partial(_open, self._overlay, attr.ino) if is_file else None,
        )

    def _xattrs(self, ino: Ino, mode: int) -> dict[bytes, bytes]:
        if not (self._every_xattr or stat.S_ISREG(mode)):
            return {}
        names = self._overlay.listxattr(ino)
        taken = names if self._every_xattr else {_CAPABILITY} & set(names)
        return {name: self._overlay.getxattr(ino, name) for name in taken}


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
