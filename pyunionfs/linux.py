"""The system calls that Python's ``os`` module lacks, each as one small function.

Only home of ``ctypes`` outside ``transport/devfuse``. Every function raises the plain ``OSError`` of the
call that failed; names and flags are those of the manual pages (section 2). This module knows nothing of
overlays: it would serve any program.
"""

import ctypes
import errno
import fcntl
import os
import signal
import struct

_libc = ctypes.CDLL(None, use_errno=True)

# linux/fs.h
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4
FS_IOC_MEASURE_VERITY = 0xC0046686
_VERITY_DIGEST_MAX = 64
FICLONE = 0x40049409
FS_IOC_GETFSUUID = 0x80111500
FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FSSETXATTR = 0x401C5820

# fcntl.h, linux/fcntl.h, linux/fs.h
_SYNC_FILE_RANGE_WRITE = 2
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2

# linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

# linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_RDONLY = 1
MS_NOSUID = 2

# linux/mount.h
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_STRICTATIME = 1 << 24
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR__ATIME = 0x70

# These have the same number on every architecture (those from 424 on are shared).
_SYS_OPEN_TREE = 428
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442
_SYS_LISTXATTRAT = 465

_OPEN_HOW = struct.Struct("=QQQ")
_MOUNT_ATTR = struct.Struct("=QQQQ")
_FILE_HANDLE = struct.Struct("=Ii")
_MAX_HANDLE_SZ = 128
_TIMESPECS = struct.Struct("=qqqq")
_DIRENT = struct.Struct("=QqHB")
_STATX_BTIME = 0x800
_STATX_TIME = struct.Struct("=qI")  # struct statx_timestamp
_STATX_BTIME_AT, _STATX_SIZE = 80, 256


def _check(result: int, *paths: bytes) -> int:
    """Turn libc's -1 into the OSError of errno."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *paths[:1])
    return result


# With the GIL held: it takes a microsecond, and giving the GIL up and taking it again costs as much.
_quick_syscall = ctypes.PyDLL(None, use_errno=True).syscall
_quick_syscall.argtypes = (
    *(ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint),
    *(ctypes.c_void_p, ctypes.c_size_t),
)
_quick_syscall.restype = ctypes.c_long


def has_xattrs(dir_fd: int, name: bytes) -> bool:
    """Whether an object may have xattrs, without following a symlink: by listxattrat(2), Linux 6.13."""
    return bool(_quick_syscall(_SYS_LISTXATTRAT, dir_fd, name, AT_SYMLINK_NOFOLLOW, None, 0))


def renameat2(old_dir: int, old: bytes, new_dir: int, new: bytes, flags: int) -> None:
    """Rename with RENAME_NOREPLACE, RENAME_EXCHANGE or RENAME_WHITEOUT: see renameat2(2)."""
    _check(_libc.renameat2(old_dir, old, new_dir, new, flags), old)


def openat2(dir_fd: int, path: bytes, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """Open below ``dir_fd`` with the RESOLVE_* limits of openat2(2); the descriptor is close-on-exec."""
    how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, mode, resolve)
    return _check(
        _libc.syscall(ctypes.c_long(_SYS_OPENAT2), dir_fd, ctypes.c_char_p(path), how, ctypes.c_size_t(len(how))),
        path,
    )


def open_tree(dir_fd: int, path: bytes, flags: int) -> int:
    """Open or clone a mount: see open_tree(2). EPERM without CAP_SYS_ADMIN in the mount namespace's owner."""
    return _check(
        _libc.syscall(
            ctypes.c_long(_SYS_OPEN_TREE),
            dir_fd,
            ctypes.c_char_p(path),
            ctypes.c_uint(flags | OPEN_TREE_CLOEXEC),
        ),
        path,
    )


def mount_setattr(fd: int, *, set_: int, clear: int = 0) -> None:
    """Change the attributes of the mount that ``fd`` is the root of: see mount_setattr(2)."""
    attr = _MOUNT_ATTR.pack(set_, clear, 0, 0)
    _check(
        _libc.syscall(ctypes.c_long(_SYS_MOUNT_SETATTR), fd, b"", AT_EMPTY_PATH, attr, ctypes.c_size_t(len(attr)))
    )


def mount(source: bytes, target: bytes, fstype: bytes, flags: int, data: bytes) -> None:
    """See mount(2)."""
    _check(
        _libc.mount(
            ctypes.c_char_p(source),
            ctypes.c_char_p(target),
            ctypes.c_char_p(fstype),
            ctypes.c_ulong(flags),
            ctypes.c_char_p(data),
        ),
        target,
    )


def umount2(target: bytes, flags: int) -> None:
    """See umount2(2)."""
    _check(_libc.umount2(ctypes.c_char_p(target), flags), target)


def die_with_parent() -> None:
    """Have SIGKILL sent to this process when its parent ends, until it changes its credentials: see prctl(2)."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)))


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """Make a mount the root of this mount namespace: see pivot_root(2)."""
    _check(_libc.pivot_root(ctypes.c_char_p(new_root), ctypes.c_char_p(put_old)), new_root)


def unshare(flags: int) -> None:
    """Leave namespaces that are shared with the parent: see unshare(2)."""
    _check(_libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    """Join a namespace: see setns(2). ``os.setns`` is Python 3.12's."""
    _check(_libc.setns(fd, kind))


def in_user_namespace() -> bool:
    """Whether this process is in another user namespace than that of the machine: see user_namespaces(7)."""
    with open("/proc/self/uid_map") as file:
        return file.read().split() != ["0", "0", "4294967295"]


def utimensat(
    path: bytes,
    atime: tuple[int, int],
    mtime: tuple[int, int],
    *,
    dir_fd: int = AT_FDCWD,
    follow_symlinks: bool = False,
) -> None:
    """Set times given as (seconds, nanoseconds); UTIME_NOW and UTIME_OMIT are nanoseconds: see utimensat(2).
    ``os.utime`` does not know these."""
    times = _TIMESPECS.pack(*atime, *mtime)
    flags = 0 if follow_symlinks else AT_SYMLINK_NOFOLLOW
    _check(_libc.utimensat(dir_fd, ctypes.c_char_p(path), times, flags), path)


def birth_time(dir_fd: int, path: bytes) -> int | None:
    """When an object was made, in ns, without following a symlink; None where that is not known: see statx(2)."""
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    flags = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH
    _check(_libc.statx(dir_fd, ctypes.c_char_p(path), flags, _STATX_BTIME, buffer), path)
    if not int.from_bytes(buffer.raw[:4], "little") & _STATX_BTIME:
        return None
    seconds, nanoseconds = _STATX_TIME.unpack_from(buffer.raw, _STATX_BTIME_AT)
    return int(seconds) * 10**9 + int(nanoseconds)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Allocate, punch or zero a range: see fallocate(2)."""
    _check(_libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)))


def getdents(fd: int, size: int) -> list[tuple[bytes, int, int, int]]:
    """``(name, d_ino, d_off, d_type)`` of the next entries that fit into ``size`` bytes: see getdents64(2).

    Empty at the end. A ``d_off`` is where ``os.lseek`` continues after that entry, as telldir(3) does.
    """
    buffer = ctypes.create_string_buffer(size)
    filled = _check(_libc.getdents64(fd, buffer, ctypes.c_size_t(size)))
    entries, at = [], 0
    while at < filled:
        ino, off, length, kind = _DIRENT.unpack_from(buffer, at)
        name = buffer.raw[at + _DIRENT.size : at + length].split(b"\0", 1)[0]
        entries.append((name, ino, off, kind))
        at += length
    return entries


def name_to_handle_at(dir_fd: int, path: bytes, flags: int = 0) -> tuple[int, bytes]:
    """Return ``(type, handle)`` of a file without following a symlink: see name_to_handle_at(2).

    Raises EOPNOTSUPP where the filesystem has no handles.
    """
    buffer = ctypes.create_string_buffer(_FILE_HANDLE.pack(_MAX_HANDLE_SZ, 0), _FILE_HANDLE.size + _MAX_HANDLE_SZ)
    mount_id = ctypes.c_int()
    _check(_libc.name_to_handle_at(dir_fd, ctypes.c_char_p(path), buffer, ctypes.byref(mount_id), flags), path)
    size, kind = _FILE_HANDLE.unpack_from(buffer.raw)
    return kind, buffer.raw[_FILE_HANDLE.size : _FILE_HANDLE.size + size]


def open_by_handle_at(mount_fd: int, kind: int, handle: bytes, flags: int) -> int:
    """Open by the handle of :func:`name_to_handle_at`; needs CAP_DAC_READ_SEARCH; ESTALE when it is gone."""
    return _check(
        _libc.open_by_handle_at(mount_fd, _FILE_HANDLE.pack(len(handle), kind) + handle, flags | os.O_CLOEXEC)
    )


def syncfs(fd: int) -> None:
    """Write out everything of the filesystem of ``fd``: see syncfs(2)."""
    _check(_libc.syncfs(fd))


def malloc_trim() -> None:
    """Give unused memory of the C library's allocator back to the system: see malloc_trim(3); glibc only."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Have what was written there go to the disk, and do not wait: sync_file_range(2) with
    SYNC_FILE_RANGE_WRITE."""
    _check(_libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE))


def ficlone(target: int, source: int) -> None:
    """Share the data of ``source`` with ``target``: see ioctl_ficlone(2)."""
    fcntl.ioctl(target, FICLONE, source)


def measure_verity(fd: int) -> tuple[int, bytes] | None:
    """The algorithm (FS_VERITY_HASH_ALG_*) and digest of a file with fs-verity, None for any other file."""
    buffer = bytearray(4 + _VERITY_DIGEST_MAX)
    struct.pack_into("=HH", buffer, 0, 0, _VERITY_DIGEST_MAX)  # struct fsverity_digest
    try:
        fcntl.ioctl(fd, FS_IOC_MEASURE_VERITY, buffer)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENODATA):
            return None
        raise
    algorithm, size = struct.unpack_from("=HH", buffer)
    return algorithm, bytes(buffer[4 : 4 + size])


def filesystem_uuid(fd: int) -> bytes | None:
    """The 16-byte UUID of the filesystem of ``fd`` (FS_IOC_GETFSUUID, Linux 6.9), None where there is none."""
    buffer = bytearray(17)
    try:
        fcntl.ioctl(fd, FS_IOC_GETFSUUID, buffer)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF):
            return None
        raise
    return bytes(buffer[1:]) if buffer[0] == 16 else None
