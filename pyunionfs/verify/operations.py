"""What is done to both mounts: one function an operation, relative to the working directory.

Each returns what a program could see, without what two correct filesystems may choose freely (inode numbers, new
times, the order of a listing). ``where`` is a path or an open descriptor, as with the functions of ``os``. The
functions use nothing but the standard library and :mod:`..linux`, for :mod:`.script` copies those that a found
divergence needs into a program that runs by itself.
"""

import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..linux import fallocate, getdents, renameat2, utimensat

OLD_S = 1_000_000_000
RECENT_NS = 1_600_000_000 * 10**9
F_OFD_SETLK = 37

Where = str | int


def outcome(function: Callable[..., Any], arguments: tuple[Any, ...], user: int) -> Any:
    """The result of an operation done as ``user``, or the name of its errno."""
    try:
        with acting_as(user):
            return function(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))


@contextmanager
def acting_as(user: int) -> Iterator[None]:
    """Be somebody else for a moment; capabilities come and go with the effective uid (capabilities(7))."""
    if not user:
        yield
        return
    os.setgroups([])
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def seen(status: os.stat_result) -> tuple[Any, ...]:
    """What of a stat(2) must agree. The size of a directory is the filesystem's own business."""
    return (
        stat.filemode(status.st_mode),
        f"owner {status.st_uid}:{status.st_gid}",
        f"nlink {status.st_nlink}",
        "size" if stat.S_ISDIR(status.st_mode) else f"size {status.st_size}",
        f"rdev {status.st_rdev}",
        f"mtime {status.st_mtime_ns}" if status.st_mtime_ns < RECENT_NS else "mtime recent",
    )


def existing(where: Where, names: list[str]) -> list[str]:
    """Sorted, and without what is listed but cannot be looked up (see the divergence "listed whiteouts")."""
    if isinstance(where, int):
        return sorted(name for name in names if _exists(name, where))
    return sorted(name for name in names if _exists(os.path.join(where, name), None))


def _exists(path: str, dir_fd: int | None) -> bool:
    try:
        os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    except OSError as error:
        return error.errno == errno.EACCES  # it may be there for somebody else
    return True


@contextmanager
def opened(path: str, flags: int) -> Iterator[int]:
    """Never waits for the other end of a fifo."""
    fd = os.open(path, flags | os.O_NONBLOCK, 0o640)
    try:
        yield fd
    finally:
        os.close(fd)


# Opening, and open files.


def open_(path: str, flags: int) -> Any:
    with opened(path, flags) as fd:
        return seen(os.fstat(fd))


def read(path: str, flags: int) -> Any:
    with opened(path, flags) as fd:
        return seen(os.fstat(fd)), os.read(fd, 100_000)


def write(path: str, flags: int, data: bytes, offset: int | None) -> Any:
    with opened(path, flags) as fd:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            return "fifo"  # with no reader, or with itself as one
        written = os.write(fd, data) if offset is None else os.pwrite(fd, data, offset)
        return written, seen(os.fstat(fd))


def map_shared(path: str, offset: int, data: bytes) -> Any:
    """Write through a shared mapping, then read by read(2)."""
    with opened(path, os.O_RDWR) as fd:
        size = os.fstat(fd).st_size
        if not stat.S_ISREG(os.fstat(fd).st_mode) or offset + len(data) > size or not size:
            return "does not fit"
        with mmap.mmap(fd, size, mmap.MAP_SHARED) as mapping:
            mapping[offset : offset + len(data)] = data
            mapping.flush()
            return os.pread(fd, 100_000, 0), mapping[:]


def map_private(path: str, data: bytes) -> Any:
    """What is written through a private mapping stays there."""
    with opened(path, os.O_RDONLY) as fd:
        size = os.fstat(fd).st_size
        if not stat.S_ISREG(os.fstat(fd).st_mode) or len(data) > size or not size:
            return "does not fit"
        with mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapping:
            before = mapping[:]
            mapping[: len(data)] = data
            return before, mapping[:], os.pread(fd, 100_000, 0)


def make_unnamed(directory: str, name: str, data: bytes) -> Any:
    """O_TMPFILE, and a name for it afterwards."""
    with opened(directory, os.O_TMPFILE | os.O_RDWR) as fd:
        os.write(fd, data)
        # A descriptor of no use with an absolute path, or Python would call link(2), which does not follow.
        os.link(f"/proc/self/fd/{fd}", name, src_dir_fd=fd, follow_symlinks=True)
        return seen(os.fstat(fd))


def hold(fds: dict[int, int], slot: int, path: str, flags: int) -> Any:
    """Open a file and keep it open in a slot."""
    fd = os.open(path, flags | os.O_NONBLOCK, 0o640)
    if slot in fds:
        os.close(fds[slot])
    fds[slot] = fd
    return seen(os.fstat(fd))


def let_go(fds: dict[int, int], slot: int) -> None:
    if slot in fds:
        os.close(fds.pop(slot))


def pread(fd: int, sizes: tuple[int, ...], offset: int) -> Any:
    """preadv(2) into buffers of several sizes."""
    buffers = [bytearray(size) for size in sizes]
    count = os.preadv(fd, buffers, offset)
    return count, b"".join(buffers)[:count]


def pwrite(fd: int, data: bytes, offset: int) -> Any:
    return os.pwrite(fd, data, offset), seen(os.fstat(fd))


def append(fd: int, data: bytes) -> Any:
    """At the end of a file, wherever the position was."""
    if stat.S_ISREG(os.fstat(fd).st_mode):
        os.lseek(fd, 0, os.SEEK_END)
    return os.write(fd, data), seen(os.fstat(fd))


def fsync(fd: int, only_data: bool) -> None:
    (os.fdatasync if only_data else os.fsync)(fd)


def seek(fd: int, offset: int, whence: int) -> Any:
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE) or not stat.S_ISDIR(os.fstat(fd).st_mode):
        return os.lseek(fd, offset, whence)
    try:
        return f"in a directory: {os.lseek(fd, offset, whence)}"
    except OSError as error:
        return f"in a directory: {errno.errorcode[error.errno or 0]}"


def allocate(path: str, mode: int, offset: int, length: int) -> Any:
    with opened(path, os.O_RDWR) as fd:
        fallocate(fd, mode, offset, length)
        return seen(os.fstat(fd)), os.pread(fd, 100_000, 0)


def flock(fd: int, how: int) -> None:
    fcntl.flock(fd, how | fcntl.LOCK_NB)


def lock_range(fd: int, kind: int, start: int, length: int) -> None:
    """A lock that belongs to the open file (F_OFD_SETLK, fcntl(2)), so that slots may be in each other's way."""
    fcntl.fcntl(fd, F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))


def rewrite(path: str) -> None:
    """Write to a file what is there already, so that its data is copied up if it was not."""
    if not os.path.exists(path) or not stat.S_ISREG(os.stat(path).st_mode):
        return
    with opened(path, os.O_RDWR) as fd:
        if data := os.pread(fd, 1, 0):
            os.pwrite(fd, data, 0)
        else:
            os.truncate(fd, os.fstat(fd).st_size)


# Names.


def mkdir(path: str, mode: int) -> None:
    os.mkdir(path, mode)


def rmdir(path: str) -> Any:
    return _or_what_is_left(lambda: os.rmdir(path))


def _or_what_is_left(function: Callable[[], None], directory: str = "") -> Any:
    """None; or of a directory that is said not to be empty, what is in it (os.rmdir tells which it was)."""
    try:
        function()
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        full = directory or error.filename
        return "ENOTEMPTY", existing(full, os.listdir(full))
    return None


def unlink(path: str) -> None:
    os.unlink(path)


def remove_tree(path: str) -> Any:
    """rm -r, entry by entry, as programs do it."""
    return _or_what_is_left(lambda: _remove_tree(path))


def _remove_tree(path: str) -> None:
    for name in existing(path, os.listdir(path)):
        below = os.path.join(path, name)
        if stat.S_ISDIR(os.lstat(below).st_mode):
            _remove_tree(below)
        else:
            os.unlink(below)
    os.rmdir(path)


def rename(old: str, new: str, flags: int) -> Any:
    names = (os.fsencode(old), os.fsencode(new))
    return _or_what_is_left(lambda: renameat2(-100, names[0], -100, names[1], flags), new)


def link(old: str, new: str, follow: bool) -> None:
    # With a descriptor, Python calls linkat(2), which can follow a symlink; link(2) does not.
    here = os.open(".", os.O_PATH)
    try:
        os.link(old, new, src_dir_fd=here, follow_symlinks=follow)
    finally:
        os.close(here)


def symlink(target: str, path: str) -> None:
    os.symlink(target, path)


def mknod(path: str, node: tuple[int, int]) -> None:
    """``node`` is a mode and a device number."""
    os.mknod(path, *node)


def listdir(where: Where) -> Any:
    kinds = {}
    with os.scandir(where) as entries:
        for entry in entries:
            kinds[entry.name] = (entry.is_dir(follow_symlinks=False), entry.is_symlink())
    return [(name, kinds[name]) for name in existing(where, list(kinds))]


def list_in_pieces(path: str, size: int) -> Any:
    """A few entries at a time; and from each place that the listing told, the same rest again."""
    with opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        entries = _rest(fd, size)
        resumed = []
        for index, (_, offset) in enumerate(entries):
            os.lseek(fd, offset, os.SEEK_SET)
            resumed.append(_rest(fd, size) == entries[index + 1 :])
        os.lseek(fd, 0, os.SEEK_SET)
        again = _rest(fd, size) == entries
        return existing(fd, [name for name, _ in entries]), all(resumed), again


def _rest(fd: int, size: int) -> list[tuple[str, int]]:
    found = []
    while piece := getdents(fd, size):
        found += [(os.fsdecode(name), offset) for name, _, offset, _ in piece]
    return found


# Attributes.


def stat_(where: Where, follow: bool) -> Any:
    return seen(os.fstat(where) if isinstance(where, int) else os.stat(where, follow_symlinks=follow))


def access(path: str, mode: int) -> bool:
    return os.access(path, mode, effective_ids=True)


def readlink(path: str) -> str:
    return os.readlink(path)


def statfs(where: Where) -> Any:
    status = os.statvfs(where)
    return f"namemax {status.f_namemax} bsize {status.f_bsize} blocks {status.f_blocks}"


def truncate(where: Where, size: int) -> Any:
    os.truncate(where, size)
    return seen(os.stat(where))  # also of what a symlink leads to


def chmod(where: Where, mode: int) -> Any:
    os.chmod(where, mode)
    return seen(os.stat(where))


def chown(where: Where, uid: int, gid: int) -> Any:
    if isinstance(where, int):
        os.fchown(where, uid, gid)
    else:
        os.lchown(where, uid, gid)
    return stat_(where, follow=False)


def utime(where: Where, atime: tuple[int, int], mtime: tuple[int, int]) -> Any:
    """Of a symlink itself; each time as (seconds, nanoseconds, which may be UTIME_NOW or UTIME_OMIT)."""
    if isinstance(where, int):
        os.utime(where, ns=(OLD_S * 10**9, mtime[0] * 10**9))
    else:
        utimensat(os.fsencode(where), atime, mtime)
    return stat_(where, follow=False)


def setxattr(where: Where, name: str, value: bytes, flags: int) -> Any:
    os.setxattr(where, name, value, flags, follow_symlinks=isinstance(where, int))
    return stat_(where, follow=False)  # an ACL is a mode too


def getxattr(where: Where, name: str) -> bytes:
    return os.getxattr(where, name, follow_symlinks=isinstance(where, int))


def listxattr(where: Where) -> list[str]:
    return sorted(os.listxattr(where, follow_symlinks=isinstance(where, int)))


def removexattr(where: Where, name: str) -> Any:
    os.removexattr(where, name, follow_symlinks=isinstance(where, int))
    return stat_(where, follow=False)
