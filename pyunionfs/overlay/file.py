"""Data: reading and writing by inode, on backing files opened on demand (fs/overlayfs/file.c).

The kernel opens a backing file for each open file, and has to look again after a copy-up. Here a backing
file belongs to the inode: a copy-up swaps it, and whoever reads next reads the copy. Descriptors are kept in
a bounded LRU; one that is in use, or that could not be opened again, is not closed to make room.
"""

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import linux
from ..vfs import Extent, NotCachedError, WouldWaitError
from . import verity
from .backing import Backing
from .inode import Inode

if TYPE_CHECKING:
    from .super import Superblock

MAY_REOPEN_ANYTHING = os.geteuid() == 0
_EVICT_TRIES = 8
_SHORT = 1 << 16  # bytes; copying no more takes no longer than many other requests
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_TRUNC


class _Open:
    __slots__ = ("backing", "fd", "stale", "users", "writable")

    def __init__(self, backing: Backing, fd: int, writable: bool) -> None:
        self.backing = backing
        self.fd = fd
        self.writable = writable
        self.users = 0
        self.stale = False  # no longer in the LRU: to be closed by its last user


class OpenFiles:
    """The backing files that are open: one an inode, about ``budget`` of them.

    Their descriptors serve for attributes too (:attr:`Backing.open_fd`). So they come and go under the superblock's
    namespace lock; who reads or writes, which needs no such lock, keeps hold of one by :meth:`acquire`.
    """

    def __init__(self, sb: "Superblock", budget: int) -> None:
        self._sb = sb
        self._budget = budget
        self._lock = threading.Lock()
        self._open: OrderedDict[Inode, _Open] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def use(self, inode: Inode, *, write: bool) -> Iterator[int]:
        """A descriptor of the inode's backing file for the duration of a ``with``."""
        entry = self.acquire(inode, write=write)
        try:
            yield entry.fd
        finally:
            self.release(entry)

    def put(self, inode: Inode, fd: int, *, writable: bool) -> None:
        """Hand in a descriptor that is open already, as after a create or a copy-up."""
        self.discard(inode)
        backing = find_data(self._sb, inode)
        with self._lock:
            self._open[inode] = _Open(backing, fd, writable)
            backing.open_fd = fd
            self._evict()

    def discard(self, inode: Inode) -> None:
        """Let go of an inode's descriptor: it is forgotten, or its backing file is another one now."""
        with self._lock:
            entry = self._open.pop(inode, None)
            if entry is not None:
                self._retire(entry)

    def close(self) -> None:
        with self._lock:
            for entry in self._open.values():
                self._retire(entry)
            self._open.clear()

    def acquire(self, inode: Inode, *, write: bool) -> _Open:
        """As :meth:`use`, to be ended by :meth:`release`: for what is done for every request."""
        with self._lock:
            entry = self._open.get(inode)
            if entry is not None and (entry.writable or not write):
                self._open.move_to_end(inode)
                entry.users += 1
                return entry
        with self._sb.lock:
            fd, writable = self._open_backing(inode, write)
            self.put(inode, fd, writable=writable)
            with self._lock:
                entry = self._open[inode]
                entry.users += 1
                return entry

    def _open_backing(self, inode: Inode, write: bool) -> tuple[int, bool]:
        if inode.upper is not None and not inode.metacopy:
            if write:
                return inode.upper.open(os.O_RDWR), True
            return inode.upper.open(os.O_RDONLY), False
        assert not write, "written before it was copied up"
        return open_lower(self._sb, inode), False

    def release(self, entry: _Open) -> None:
        with self._lock:
            entry.users -= 1
            if entry.stale and not entry.users:
                os.close(entry.fd)

    def _retire(self, entry: _Open) -> None:
        entry.backing.open_fd = -1
        if entry.users:
            entry.stale = True
        else:
            os.close(entry.fd)

    def _evict(self) -> None:
        """Make room. What must stay goes to the young end, so that one call looks at a few entries only."""
        for _ in range(_EVICT_TRIES):
            if len(self._open) <= self._budget:
                return
            inode, entry = self._open.popitem(last=False)
            # A file that was created read-only and is still being written can be opened again by root alone.
            if entry.users or (inode.opens and not MAY_REOPEN_ANYTHING):
                self._open[inode] = entry
            else:
                self._retire(entry)


def find_data(sb: "Superblock", inode: Inode) -> Backing:
    """The object that holds an inode's data: of a metacopy, the last one below, perhaps in a data-only layer.

    Raises ENOENT if no data-only layer has it (ovl_lookup_data_layers).
    """
    if not inode.metacopy:
        return inode.real
    if not inode.data_path:
        return inode.lower[-1]
    for layer in sb.data:
        backing = layer.root
        for name in inode.data_path[1:].split(b"/"):
            backing = backing.child(name)
        try:
            is_file = stat.S_ISREG(backing.stat().st_mode)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                raise
            continue
        if is_file:
            inode.lower = (*inode.lower, backing)
            inode.data_path = b""
            return backing
    raise OSError(errno.ENOENT, "no data-only layer has the data", inode.data_path)


def open_lower(sb: "Superblock", inode: Inode) -> int:
    """Open the data of an inode that has none in the upper layer; under the namespace lock."""
    data = find_data(sb, inode)
    try:  # like the kernel, leave the lower layer's atime alone; only an owner may ask for that
        fd = data.open(os.O_RDONLY | os.O_NOATIME)
    except PermissionError:
        fd = data.open(os.O_RDONLY)
    if inode.metacopy and sb.params.verity != "off":
        try:
            verity.check(sb, inode, fd)
        except BaseException:
            os.close(fd)
            raise
    return fd


def read(sb: "Superblock", inode: Inode, offset: int, size: int) -> bytes:
    """Up to ``size`` bytes; fewer only at the end of the file."""
    if inode.metacopy:  # the data below may be longer, in layers made by hand
        with sb.lock:
            size = min(size, max(inode.real.stat().st_size - offset, 0))
    with sb.files.use(inode, write=False) as fd:
        return os.pread(fd, size, offset)


def readinto(sb: "Superblock", inode: Inode, offset: int, buffer: memoryview, *, wait: bool) -> int:
    """As :func:`read`, into a buffer. Without ``wait`` raises NotCachedError for what is not in the page cache, and
    WouldWaitError where that cannot be told."""
    if inode.metacopy:
        with sb.lock:
            buffer = buffer[: max(inode.real.stat().st_size - offset, 0)]
    flags = 0 if wait else os.RWF_NOWAIT
    entry = sb.files.acquire(inode, write=False)
    try:
        done = os.preadv(entry.fd, [buffer], offset, flags)
        while done < len(buffer):  # a short read is no end of the file if the rest is not in the cache
            got = os.preadv(entry.fd, [buffer[done:]], offset + done, flags)
            if not got:
                break
            done += got
    except OSError as error:
        if flags:
            raise _without_waiting(error) from None
        raise
    finally:
        sb.files.release(entry)
    return done


def _without_waiting(error: OSError) -> OSError:
    """What an error of RWF_NOWAIT means."""
    if error.errno == errno.EAGAIN:
        return NotCachedError()
    return WouldWaitError() if error.errno == errno.EOPNOTSUPP else error


def need_no_disk(sb: "Superblock", inode: Inode, *, offset: int = 0, length: int = _SHORT) -> None:
    """Raises as :func:`readinto` unless a piece of a file is in the page cache."""
    readinto(sb, inode, offset, memoryview(bytearray(length)), wait=False)


def seek(sb: "Superblock", inode: Inode, offset: int, whence: int) -> int:
    """Where data or a hole begins (ovl_llseek)."""
    with sb.files.use(inode, write=False) as fd:
        return os.lseek(fd, offset, whence)


def copy_range(
    sb: "Superblock", source: Inode, extent: Extent, target: Inode, offset: int, *, kill_suid: bool, wait: bool
) -> int:
    """copy_file_range(2) between the backing files (ovl_copyfile). Without ``wait`` raises as :func:`readinto`, and
    WouldWaitError for what is long."""
    with sb.files.use(source, write=False) as source_fd, sb.files.use(target, write=True) as target_fd:
        if not wait:
            length = min(extent.length, os.fstat(source_fd).st_size - extent.offset)
            if length > _SHORT:
                raise WouldWaitError
            need_no_disk(sb, source, offset=extent.offset, length=max(length, 0))
        if kill_suid:
            drop_suid(sb, target, target_fd)
        return os.copy_file_range(source_fd, target_fd, extent.length, extent.offset, offset)


def fallocate(sb: "Superblock", inode: Inode, mode: int, offset: int, length: int, *, kill_suid: bool) -> None:
    """fallocate(2) of the backing file (ovl_fallocate)."""
    with sb.files.use(inode, write=True) as fd:
        linux.fallocate(fd, mode, offset, length)
        if kill_suid:
            drop_suid(sb, inode, fd)


def write(
    sb: "Superblock", inode: Inode, offset: int, data: bytes | memoryview, *, kill_suid: bool, sync: bool
) -> int:
    """Write to the copy in the upper layer; returns the number of bytes written."""
    with sb.files.use(inode, write=True) as fd:
        if kill_suid:
            drop_suid(sb, inode, fd)
        if sync:
            return os.pwritev(fd, [data], offset, os.RWF_DSYNC)
        return os.pwrite(fd, data, offset)


def truncate(sb: "Superblock", inode: Inode, size: int, *, kill_suid: bool) -> None:
    """Set the size; a caller without CAP_FSETID loses the file its setuid bit."""
    with sb.files.use(inode, write=True) as fd:
        if kill_suid:
            drop_suid(sb, inode, fd)
        os.ftruncate(fd, size)


def fsync(sb: "Superblock", inode: Inode, *, data_only: bool) -> None:
    """Force what was written to disk; a lower object has nothing to force, and a volatile union does not care."""
    if inode.upper is None or not sb.params.syncs:
        return
    if inode.is_dir or inode.metacopy:
        with sb.lock:
            fd = inode.upper.open(os.O_RDONLY | (os.O_DIRECTORY if inode.is_dir else 0))
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        return
    with sb.files.use(inode, write=False) as fd:
        (os.fdatasync if data_only else os.fsync)(fd)


def drop_suid(sb: "Superblock", inode: Inode, fd: int) -> None:
    """Clear the bits that a write by an ordinary user clears (setattr_should_drop_suidgid). Root's daemon
    has CAP_FSETID, so the backing filesystem would keep them."""
    st = os.fstat(fd)
    if sb.ownership is not None and inode.upper is not None:
        with sb.lock:
            owner = sb.ownership.of(inode.upper, st)
            if kill := _dropped(owner.mode):
                sb.ownership.give(inode.upper, st, replace(owner, mode=owner.mode & ~kill))
        return
    if kill := _dropped(st.st_mode):
        try:
            os.fchmod(fd, st.st_mode & 0o7777 & ~kill)
        except OSError as error:
            if error.errno != errno.EPERM:  # a file of somebody else: its own kernel clears the bits then
                raise


def _dropped(mode: int) -> int:
    return mode & 0o4000 | (0o2000 if mode & 0o2010 == 0o2010 else 0)
