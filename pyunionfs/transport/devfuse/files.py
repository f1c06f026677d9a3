"""What OPEN answers: who reads and writes an open file, we by requests or the kernel by itself.

With passthrough (Linux 6.9) the kernel reads and writes a backing file that we name. It refuses to mix that with
reads and writes by request on one inode (EIO, fuse_inode_uncached_io_start), so an inode has one way as long as
it is open: the one of whoever opened it first. Only files that are in the upper layer pass through: a lower one
may be copied up while it is open.
"""

import fcntl
import os
import stat
from dataclasses import dataclass
from typing import Protocol

from ... import vfs
from ...vfs import Ino
from . import abi
from .abi import Fopen

_BY_REQUEST, _THROUGH = 0, 1  # as file handles, so that RELEASE tells


class Files(Protocol):
    """The open files of a mount."""

    def open(self, ino: Ino, flags: int) -> bytes:
        """The reply to OPEN."""

    def release(self, ino: Ino, fh: int) -> None:
        """The end of an open."""


class ByRequest:
    """Every file is read and written by requests, and its pages are kept."""

    def open(self, ino: Ino, flags: int) -> bytes:
        return abi.OPEN_OUT.pack(_BY_REQUEST, Fopen.KEEP_CACHE | Fopen.NOFLUSH, 0)

    def release(self, ino: Ino, fh: int) -> None:
        """Nothing is noted of it."""


@dataclass(slots=True)
class _Way:
    """How an inode is read and written while it is open."""

    users: int
    backing_id: int  # 0: by request


class Passthrough:
    """Files of the upper layer are read and written by the kernel."""

    def __init__(self, fd: int, operations: vfs.Operations) -> None:
        self._fd = fd
        self._ops = operations
        self._ways: dict[Ino, _Way] = {}

    def open(self, ino: Ino, flags: int) -> bytes:
        way = self._ways.get(ino)
        if way is None:
            way = self._ways[ino] = _Way(0, self._backing_id(ino, flags))
        way.users += 1
        if way.backing_id:
            return abi.OPEN_OUT.pack(_THROUGH, Fopen.PASSTHROUGH | Fopen.NOFLUSH, way.backing_id)
        return abi.OPEN_OUT.pack(_BY_REQUEST, Fopen.KEEP_CACHE | Fopen.NOFLUSH, 0)

    def release(self, ino: Ino, fh: int) -> None:
        way = self._ways[ino]
        way.users -= 1
        if not way.users:
            del self._ways[ino]
            if way.backing_id:
                fcntl.ioctl(self._fd, abi.DEV_IOC_BACKING_CLOSE, way.backing_id.to_bytes(4, "little"))

    def _backing_id(self, ino: Ino, flags: int) -> int:
        """0 for what is not to pass through: a lower file, and one that loses setuid or capabilities by being
        written to, which the kernel would do with our privileges, and so not do.
        """
        if self._ops.getattr(ino).mode & (stat.S_ISUID | stat.S_ISGID) or self._has_capabilities(ino):
            return 0
        fd = self._ops.backing(ino)
        if fd is None:
            return 0
        try:
            argument = bytearray(abi.BACKING_MAP.pack(fd, 0, 0))
            return int(fcntl.ioctl(self._fd, abi.DEV_IOC_BACKING_OPEN, argument))
        finally:
            os.close(fd)

    def _has_capabilities(self, ino: Ino) -> bool:
        try:
            return bool(self._ops.getxattr(ino, b"security.capability"))
        except OSError:
            return False
