"""Inode flags, as lsattr(1) and chattr(1) have them: those of the backing object (ovl_fileattr_get in inode.c).

The kernel keeps the flags immutable and append-only aside (xattr ``protattr``) and has its VFS honour them. A FUSE
filesystem has no way to tell the VFS of them, so they are shown, and setting them is refused.
"""

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from .. import linux
from .copy_up import copy_up
from .inode import Inode
from .super import Superblock

_FLAGS = struct.Struct("=I")  # FS_*_FL, linux/fs.h; the first field of struct fsxattr (FS_XFLAG_*) too
_FSXATTR_SIZE = 28
_APPEND, _IMMUTABLE = 0x20, 0x10
_XFLAG_IMMUTABLE, _XFLAG_APPEND = 0x8, 0x10


def get(sb: Superblock, inode: Inode, *, extended: bool) -> bytes:
    """The value of FS_IOC_GETFLAGS, or of FS_IOC_FSGETXATTR. ENOTTY where the filesystem has none."""
    with _opened(sb, inode) as fd:
        return _get(fd, extended=extended)


def _get(fd: int, *, extended: bool) -> bytes:
    request = linux.FS_IOC_FSGETXATTR if extended else linux.FS_IOC_GETFLAGS
    return fcntl.ioctl(fd, request, bytes(_FSXATTR_SIZE if extended else 8))[: _FSXATTR_SIZE if extended else 4]


def set_(sb: Superblock, inode: Inode, value: bytes, *, extended: bool) -> None:
    """Set them, after a copy-up. EOPNOTSUPP for making something immutable or append-only."""
    protected = _XFLAG_IMMUTABLE | _XFLAG_APPEND if extended else _IMMUTABLE | _APPEND
    if _FLAGS.unpack_from(value)[0] & protected:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    copy_up(sb, inode, data=False)
    request = linux.FS_IOC_FSSETXATTR if extended else linux.FS_IOC_SETFLAGS
    with _opened(sb, inode) as fd:
        fcntl.ioctl(fd, request, value if extended else value.ljust(8, b"\0"))


@contextmanager
def _opened(sb: Superblock, inode: Inode) -> Iterator[int]:
    if not (inode.is_dir or stat.S_ISREG(inode.type)):
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
    with sb.lock:
        fd = inode.real.open(os.O_RDONLY | (os.O_DIRECTORY if inode.is_dir else 0))
    try:
        yield fd
    finally:
        os.close(fd)
