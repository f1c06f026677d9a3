"""Copying a file's data the cheapest way that the filesystems have, with its holes.

Reflink first (no data moves), then copy_file_range(2) (the kernel moves it), then read and write. Kernel:
ovl_copy_up_file() in fs/overlayfs/copy_up.c.
"""

import errno
import os
from collections.abc import Callable
from contextlib import suppress

from .. import linux

_CHUNK = 1 << 20
_RANGE = 1 << 21  # after which the caller may give up, and the disk begin
_CANNOT_CLONE = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM)
_CANNOT_RANGE = (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EPERM)


def copy_data(
    source: int, target: int, size: int, *, syncs: bool = False, interrupted: Callable[[], bool] | None = None
) -> None:
    """Copy the first ``size`` bytes into an empty file.

    ``syncs`` says that the caller waits for the disk to have all of it: so the disk begins while the rest is read.
    Raises the OSError of the write that failed, and InterruptedError when ``interrupted`` says so.
    """
    if size == 0:
        return
    if size == os.fstat(source).st_size:
        try:
            linux.ficlone(target, source)
            return
        except OSError as error:
            if error.errno not in _CANNOT_CLONE:
                raise
    position = 0
    while position < size:
        start = _seek_data(source, position)
        if start is None or start >= size:
            break
        end = min(os.lseek(source, start, os.SEEK_HOLE), size)
        while start < end:
            if interrupted is not None and interrupted():
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
            _copy_range(source, target, start, min(start + _RANGE, end))
            if syncs and end - start > _RANGE:
                with suppress(OSError):  # fsync tells
                    linux.start_writeback(target, start, _RANGE)
            start += _RANGE
        position = end
    if os.fstat(target).st_size != size:
        os.ftruncate(target, size)


def _seek_data(source: int, position: int) -> int | None:
    """Where the next data begins, None if only a hole follows."""
    try:
        return os.lseek(source, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        try:
            done = os.copy_file_range(source, target, end - start, start, start)
        except OSError as error:
            if error.errno not in _CANNOT_RANGE:
                raise
            done = 0
        if done == 0:  # not possible between these two, or (procfs, some FUSE) silently nothing
            _copy_by_hand(source, target, start, end)
            return
        start += done


def _copy_by_hand(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        data = os.pread(source, min(end - start, _CHUNK), start)
        if not data:
            return
        view = memoryview(data)
        while view:
            written = os.pwrite(target, view, start)
            start += written
            view = view[written:]
