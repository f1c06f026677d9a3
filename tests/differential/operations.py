"""What the differential test does to both mounts: one function an operation, and how a shell would say it.

Each takes the root of a copy on one side and returns what a user could see, without anything that two correct
filesystems may choose freely (inode numbers, new timestamps, the order of a listing).
"""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import syscalls
from trees import OLD_NS

_RECENT_NS = 1_600_000_000 * 10**9

_OPEN_FLAGS = {
    os.O_WRONLY: "O_WRONLY",
    os.O_RDWR: "O_RDWR",
    os.O_CREAT: "O_CREAT",
    os.O_EXCL: "O_EXCL",
    os.O_TRUNC: "O_TRUNC",
    os.O_APPEND: "O_APPEND",
    os.O_DIRECTORY & ~os.O_TMPFILE: "O_DIRECTORY",
    os.O_NOFOLLOW: "O_NOFOLLOW",
}


@dataclass
class Side:
    """One of the two mounts during one example: where the copy is, and what it holds open."""

    root: bytes
    slots: dict[int, int] = field(default_factory=dict)

    def at(self, path: str) -> bytes:
        return os.path.join(self.root, b"r", os.fsencode(path))

    def close(self) -> None:
        for descriptor in self.slots.values():
            os.close(descriptor)
        self.slots.clear()


@dataclass(frozen=True)
class Operation:
    """One step: what to run on a side, the shell's words for it, and the paths that it is about."""

    run: Callable[[Side], Any]
    shell: str
    paths: tuple[str, ...] = ()


def outcome(operation: Operation, side: Side) -> Any:
    """The result, or the name of the errno."""
    try:
        return operation.run(side)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))


def seen(status: os.stat_result) -> tuple[Any, ...]:
    """What of a stat(2) must agree."""
    directory = stat.S_ISDIR(status.st_mode)
    return (
        stat.filemode(status.st_mode),
        f"owner {status.st_uid}:{status.st_gid}",
        f"nlink {status.st_nlink}",
        "size" if directory else f"size {status.st_size}",
        f"rdev {status.st_rdev}",
        f"mtime {status.st_mtime_ns}" if status.st_mtime_ns < _RECENT_NS else "mtime recent",
    )


def attributes(side: Side, path: str) -> Any:
    try:
        return seen(os.lstat(side.at(path)))
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def inode(side: Side, path: str) -> int | None:
    """The inode number of what can keep it: an origin is written to no hard link, nor by userxattr to a fifo."""
    try:
        status = os.lstat(side.at(path))
    except OSError:
        return None
    constant = stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)
    return status.st_ino if constant else None


def existing(where: bytes | int, names: list[Any]) -> list[Any]:
    """Leave out the whiteouts that the kernel lists in a directory that is merged with no other."""
    if isinstance(where, int):
        return [name for name in names if os.access(name, os.F_OK, dir_fd=where, follow_symlinks=False)]
    return [name for name in names if os.path.lexists(os.path.join(where, name))]


def _flags(flags: int) -> str:
    names = [name for bit, name in _OPEN_FLAGS.items() if flags & bit]
    return "|".join(names) or "O_RDONLY"


def _opened(side: Side, path: str, flags: int, use: Callable[[int], Any]) -> Any:
    # Never wait for the other end of a fifo.
    descriptor = os.open(side.at(path), flags | os.O_NONBLOCK, 0o640)
    try:
        return use(descriptor)
    finally:
        os.close(descriptor)


def read(path: str, flags: int) -> Operation:
    return Operation(
        lambda side: _opened(side, path, flags, lambda fd: (seen(os.fstat(fd)), os.read(fd, 100_000))),
        f"cat {path}  # {_flags(flags)}",
        (path,),
    )


def write(path: str, flags: int, data: bytes, offset: int | None) -> Operation:
    def use(descriptor: int) -> Any:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return "fifo"
        return os.write(descriptor, data) if offset is None else os.pwrite(descriptor, data, offset)

    where = "" if offset is None else f" at {offset}"
    return Operation(
        lambda side: _opened(side, path, flags, use),
        f"write {path} {len(data)} bytes{where}  # {_flags(flags)}",
        (path,),
    )


def truncate(path: str, size: int) -> Operation:
    return Operation(lambda side: os.truncate(side.at(path), size), f"truncate -s {size} {path}", (path,))


def mkdir(path: str, mode: int) -> Operation:
    return Operation(lambda side: os.mkdir(side.at(path), mode), f"mkdir -m {mode:o} {path}", (path,))


def rmdir(path: str) -> Operation:
    return Operation(lambda side: os.rmdir(side.at(path)), f"rmdir {path}", (path,))


def unlink(path: str) -> Operation:
    return Operation(lambda side: os.unlink(side.at(path)), f"unlink {path}", (path,))


def remove_tree(path: str) -> Operation:
    """rm -r, entry by entry, as programs do it."""

    def remove(where: bytes) -> None:
        for name in sorted(existing(where, os.listdir(where))):
            below = os.path.join(where, name)
            if stat.S_ISDIR(os.lstat(below).st_mode):
                remove(below)
            else:
                os.unlink(below)
        os.rmdir(where)

    return Operation(lambda side: remove(side.at(path)), f"rm -r {path}", (path,))


def rename(old: str, new: str, flags: int) -> Operation:
    said = {0: "mv -T", 1: "mv -T --no-clobber", 2: "mv -T --exchange"}[flags]
    return Operation(
        lambda side: syscalls.renameat2(side.at(old), side.at(new), flags),
        f"{said} {old} {new}  # renameat2 {flags}",
        (old, new),
    )


def link(old: str, new: str) -> Operation:
    return Operation(
        lambda side: os.link(side.at(old), side.at(new), follow_symlinks=False), f"ln -P {old} {new}", (old, new)
    )


def symlink(target: str, path: str) -> Operation:
    return Operation(lambda side: os.symlink(target, side.at(path)), f"ln -sT {target} {path}", (path,))


def mkfifo(path: str, mode: int) -> Operation:
    return Operation(lambda side: os.mkfifo(side.at(path), mode), f"mkfifo -m {mode:o} {path}", (path,))


def mknod(path: str, mode: int, device: int) -> Operation:
    return Operation(
        lambda side: os.mknod(side.at(path), mode, device),
        f"mknod {path} {stat.filemode(mode)[0]} {os.major(device)} {os.minor(device)}",
        (path,),
    )


def chmod(path: str, mode: int) -> Operation:
    return Operation(lambda side: os.chmod(side.at(path), mode), f"chmod {mode:o} {path}", (path,))


def chown(path: str, uid: int, gid: int) -> Operation:
    return Operation(
        lambda side: os.chown(side.at(path), uid, gid, follow_symlinks=False),
        f"chown -h {uid}:{gid} {path}",
        (path,),
    )


def utime(path: str, seconds: int) -> Operation:
    times = (OLD_NS, seconds * 10**9 + 7)
    return Operation(
        lambda side: os.utime(side.at(path), ns=times, follow_symlinks=False),
        f"touch -hd @{seconds} {path}",
        (path,),
    )


def setxattr(path: str, name: str, value: bytes, flags: int) -> Operation:
    def run(side: Side) -> None:
        try:
            os.setxattr(side.at(path), name, value, flags, follow_symlinks=False)
        except OSError:
            # The kernel has copied up before it sees that it cannot; we have not.
            os.utime(side.at(path), ns=(OLD_NS, OLD_NS), follow_symlinks=False)
            raise

    return Operation(run, f"setfattr -hn {name} -v {value.decode()!r} {path}  # flags {flags}", (path,))


def getxattr(path: str, name: str) -> Operation:
    return Operation(
        lambda side: os.getxattr(side.at(path), name, follow_symlinks=False), f"getfattr -hn {name} {path}", (path,)
    )


def removexattr(path: str, name: str) -> Operation:
    return Operation(
        lambda side: os.removexattr(side.at(path), name, follow_symlinks=False),
        f"setfattr -hx {name} {path}",
        (path,),
    )


def listxattr(path: str) -> Operation:
    return Operation(
        lambda side: sorted(os.listxattr(side.at(path), follow_symlinks=False)), f"getfattr -hm - {path}", (path,)
    )


def listdir(path: str) -> Operation:
    def run(side: Side) -> Any:
        with os.scandir(side.at(path)) as entries:
            kinds = {entry.name: (entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in entries}
        return sorted((name, kinds[name]) for name in existing(side.at(path), list(kinds)))

    return Operation(run, f"ls -a {path}", (path,))


def stat_(path: str, follow: bool) -> Operation:
    return Operation(
        lambda side: seen(os.stat(side.at(path), follow_symlinks=follow)), f"stat{' -L' if follow else ''} {path}"
    )


def readlink(path: str) -> Operation:
    return Operation(lambda side: os.readlink(side.at(path)), f"readlink {path}", (path,))


def hold(slot: int, path: str, flags: int) -> Operation:
    """Open a file and keep it open."""

    def run(side: Side) -> Any:
        descriptor = os.open(side.at(path), flags | os.O_NONBLOCK, 0o640)
        if slot in side.slots:
            os.close(side.slots[slot])
        side.slots[slot] = descriptor
        return seen(os.fstat(descriptor))

    return Operation(run, f"exec {slot + 3}<>{path}  # {_flags(flags)}", (path,))


def _held(slot: int, use: Callable[[int], Any]) -> Callable[[Side], Any]:
    return lambda side: use(side.slots[slot]) if slot in side.slots else "closed"


def held_read(slot: int) -> Operation:
    def use(descriptor: int) -> Any:
        return seen(os.fstat(descriptor)), os.pread(descriptor, 100_000, 0)

    return Operation(_held(slot, use), f"pread fd {slot + 3}; fstat fd {slot + 3}")


def held_write(slot: int, data: bytes, offset: int) -> Operation:
    def use(descriptor: int) -> Any:
        return os.pwrite(descriptor, data, offset), seen(os.fstat(descriptor))

    return Operation(_held(slot, use), f"pwrite fd {slot + 3} {len(data)} bytes at {offset}")


def held_change(slot: int, mode: int, size: int) -> Operation:
    def use(descriptor: int) -> Any:
        os.fchmod(descriptor, mode)
        os.ftruncate(descriptor, size)
        return seen(os.fstat(descriptor))

    return Operation(_held(slot, use), f"fchmod fd {slot + 3} {mode:o}; ftruncate fd {slot + 3} {size}")


def held_list(slot: int) -> Operation:
    return Operation(_held(slot, lambda fd: sorted(existing(fd, os.listdir(fd)))), f"ls /proc/self/fd/{slot + 3}")
