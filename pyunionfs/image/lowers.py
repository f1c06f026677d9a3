"""Files of the layers below, for a hard link that names one.

Such links are not written by any tool that works on overlays (a copied-up file has both names in the layer),
but flat unpackers accept them. The new name becomes a copy; the old one stays the lower layer's.
"""

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import xattr

from pyunionfs import linux
from pyunionfs.image.streams import CHUNK
from pyunionfs.overlay.marks import OPAQUE_YES, Namespace, is_whiteout_device

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Found:
    """A file below: an open descriptor of its directory (the caller closes it), its name and status."""

    dir_fd: int
    name: bytes
    status: os.stat_result


def find(layers: Sequence[str], path: bytes, marks: Namespace) -> Found | None:
    """What the union of ``layers`` (directories, top to bottom) shows at ``path``; None if nothing.

    The same rules as a lookup of the union, without redirects, which layers from archives have not.
    """
    *above, name = path.split(b"/")
    with ExitStack() as stack:
        fds = []
        for layer in layers:
            fds.append(os.open(layer, _OPEN_DIR))
            stack.callback(os.close, fds[-1])
        for part in above:
            fds = _descend(fds, part, marks, stack)
        for fd in fds:
            status = _lstat(name, fd)
            if status is not None:
                if is_whiteout_device(status.st_mode, status.st_rdev):
                    return None
                return Found(os.dup(fd), name, status)
    return None


def _descend(fds: list[int], name: bytes, marks: Namespace, stack: ExitStack) -> list[int]:
    """The directories called ``name`` that are merged: down to a whiteout, another file, or an opaque one."""
    below: list[int] = []
    for fd in fds:
        status = _lstat(name, fd)
        if status is None:
            continue
        if not stat.S_ISDIR(status.st_mode):
            break
        below.append(os.open(name, _OPEN_DIR, dir_fd=fd))
        stack.callback(os.close, below[-1])
        if xattr.xattr(below[-1]).get(marks.opaque, default=b"") == OPAQUE_YES:
            break
    return below


def _lstat(name: bytes, dir_fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def copy(found: Found, dir_fd: int, name: bytes) -> None:
    """Copy a regular file or symlink with its owner, mode, times and xattrs. Raises OSError."""
    if stat.S_ISLNK(found.status.st_mode):
        os.symlink(os.readlink(found.name, dir_fd=found.dir_fd), name, dir_fd=dir_fd)
        os.chown(name, found.status.st_uid, found.status.st_gid, dir_fd=dir_fd, follow_symlinks=False)
        times = (found.status.st_atime_ns, found.status.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=dir_fd, follow_symlinks=False)
        return
    source = os.open(found.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=found.dir_fd)
    try:
        target = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=dir_fd
        )
        try:
            _copy_data(source, target, found.status.st_size)
            _copy_metadata(source, target, found.status)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_data(source: int, target: int, size: int) -> None:
    try:
        linux.ficlone(target, source)
        return
    except OSError:
        pass  # no reflinks here: copy, and keep the holes
    os.ftruncate(target, size)
    position = 0
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError:
            return  # ENXIO: only a hole is left
        position = os.lseek(source, start, os.SEEK_HOLE)
        while start < position:
            chunk = os.pread(source, min(CHUNK, position - start), start)
            os.pwrite(target, chunk, start)
            start += len(chunk)


def _copy_metadata(source: int, target: int, status: os.stat_result) -> None:
    os.fchown(target, status.st_uid, status.st_gid)
    for key in xattr.listxattr(source):
        xattr.setxattr(target, key, xattr.getxattr(source, key))
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
