"""What the processes of a stress do: random operations on names that all share, careful ones on their own.

``SHARED`` says for each operation which errors it may give. A native directory is the judge of that table: the
same stress runs on one, and what no native filesystem gives is an error (``UNION_ONLY``, ``KERNEL_ONLY`` have the
exceptions).
"""

import errno
import fcntl
import mmap
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from errno import EAGAIN, EEXIST, EINVAL, EISDIR, ELOOP, ENODATA, ENOENT, ENOTDIR, ENOTEMPTY, ENXIO, EPERM, EPIPE
from typing import Any

import syscalls

PARENTS = [f"shared/{parent}" for parent in ("x", "y")]
NAMES = [f"{parent}/{name}" for parent in PARENTS for name in "abcdef"]
PATHS = NAMES + [f"{name}/{below}" for name in NAMES for below in "pq"]  # some of the names are directories
LOWER_FILES = 4  # that each process finds in its own directory
_OPEN = os.O_NONBLOCK | os.O_CLOEXEC  # lest a fifo makes somebody wait


@dataclass(frozen=True)
class Operation:
    """``act`` takes the process's random choices; ``errors`` are all that it may give."""

    act: Callable[[random.Random], object]
    errors: frozenset[int]


SHARED: dict[str, Operation] = {}
COMMON = (ENOENT, ENOTDIR, ELOOP)  # of the way to a name, which others change
# Without redirects, an overlay does not move directories of a lower layer (overlayfs.rst, "renaming directories").
UNION_ONLY = {"rename": {errno.EXDEV}, "rename_noreplace": {errno.EXDEV}, "exchange": {errno.EXDEV}}
# What only the kernel's overlay gives: it finds out late that another process has moved a directory or taken a name
# (ovl_get_inode: the inode does not verify; ovl_rename, ovl_remove_upper: the name is another's). Ours never does.
KERNEL_ONLY = {errno.ESTALE}


def shared(*errors: int) -> Callable[[Callable[[random.Random], object]], Callable[[random.Random], object]]:
    def add(act: Callable[[random.Random], object]) -> Callable[[random.Random], object]:
        SHARED[act.__name__] = Operation(act, frozenset({*COMMON, *errors}))
        return act

    return add


def opened(choose: random.Random, flags: int, use: Callable[[int], object]) -> None:
    fd = os.open(choose.choice(PATHS), flags | _OPEN, 0o644)
    try:
        use(fd)
    finally:
        os.close(fd)


@shared(EEXIST)
def create(choose: random.Random) -> None:
    opened(choose, os.O_CREAT | os.O_EXCL | os.O_WRONLY, lambda fd: os.write(fd, b"new"))


@shared(EISDIR, ENXIO, EPIPE, EAGAIN)
def append(choose: random.Random) -> None:
    opened(choose, os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, b"x" * choose.randrange(20_000)))


@shared(EISDIR, ENXIO, EPIPE, EAGAIN)
def replace(choose: random.Random) -> None:
    opened(choose, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, lambda fd: os.write(fd, b"y" * 1000))


@shared(EISDIR, ENXIO, EINVAL)
def shorten(choose: random.Random) -> None:
    opened(choose, os.O_WRONLY, lambda fd: os.ftruncate(fd, choose.randrange(5000)))


@shared(EISDIR, EAGAIN)
def read(choose: random.Random) -> None:
    opened(choose, os.O_RDONLY, lambda fd: os.read(fd, 1 << 16))


@shared(EINVAL)
def sync(choose: random.Random) -> None:
    opened(choose, os.O_RDONLY, os.fsync)


@shared(EAGAIN)
def lock(choose: random.Random) -> None:
    opened(choose, os.O_RDONLY, lambda fd: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))


@shared(EISDIR, ENXIO, EPIPE)
def use_without_a_name(choose: random.Random) -> None:
    path = choose.choice(PATHS)
    fd = os.open(path, os.O_RDWR | _OPEN)
    try:
        os.unlink(path)
        os.write(fd, b"after")
        os.fchmod(fd, 0o600)
        assert os.fstat(fd).st_size >= 0
    finally:
        os.close(fd)


@shared(EISDIR)
def unlink(choose: random.Random) -> None:
    os.unlink(choose.choice(PATHS))


@shared(EEXIST)
def mkdir(choose: random.Random) -> None:
    os.mkdir(choose.choice(PATHS))


@shared(ENOTEMPTY)
def rmdir(choose: random.Random) -> None:
    os.rmdir(choose.choice(PATHS))


@shared(EEXIST)
def mkfifo(choose: random.Random) -> None:
    os.mkfifo(choose.choice(PATHS))


@shared(EEXIST)
def symlink(choose: random.Random) -> None:
    os.symlink(f"../../{choose.choice(PATHS)}", choose.choice(PATHS))


@shared(EINVAL)
def readlink(choose: random.Random) -> None:
    os.readlink(choose.choice(PATHS))


@shared(EEXIST, EPERM)
def link(choose: random.Random) -> None:
    os.link(choose.choice(PATHS), choose.choice(PATHS), follow_symlinks=False)


@shared(EISDIR, ENOTEMPTY, EEXIST, EINVAL)
def rename(choose: random.Random) -> None:
    os.rename(choose.choice(PATHS), choose.choice(PATHS))


@shared(EEXIST, EINVAL)
def rename_noreplace(choose: random.Random) -> None:
    syscalls.renameat2(choose.choice(PATHS), choose.choice(PATHS), syscalls.RENAME_NOREPLACE)


@shared(EINVAL)
def exchange(choose: random.Random) -> None:
    syscalls.renameat2(choose.choice(PATHS), choose.choice(PATHS), syscalls.RENAME_EXCHANGE)


@shared()
def chmod(choose: random.Random) -> None:
    os.chmod(choose.choice(PATHS), choose.choice([0o644, 0o755, 0o700]))


@shared()
def chown(choose: random.Random) -> None:
    os.chown(choose.choice(PATHS), choose.randrange(3), choose.randrange(3), follow_symlinks=False)


@shared()
def touch(choose: random.Random) -> None:
    os.utime(choose.choice(PATHS), ns=(choose.randrange(10**18), choose.randrange(10**18)), follow_symlinks=False)


@shared(EPERM)
def set_xattr(choose: random.Random) -> None:
    os.setxattr(choose.choice(PATHS), "user.stress", b"%d" % choose.randrange(9), follow_symlinks=False)


@shared(EPERM, ENODATA)
def remove_xattr(choose: random.Random) -> None:
    os.removexattr(choose.choice(PATHS), "user.stress", follow_symlinks=False)


@shared()
def listing(choose: random.Random) -> None:
    names = os.listdir(choose.choice(PARENTS + PATHS))
    assert len(names) == len(set(names))


@shared()
def look(choose: random.Random) -> None:
    os.lstat(choose.choice(PATHS))
    os.statvfs("shared")


class Own:
    """The directory of one process, and what must be in it: the content of each name."""

    def __init__(self, number: int, choose: random.Random) -> None:
        self.path = f"private{number}"
        self.choose = choose
        self.content = {f"lower{name}": lower_content(number, name) for name in range(LOWER_FILES)}
        self.made = 0

    def step(self) -> None:
        actions: list[Callable[[], Any]] = [self.write, self.append, self.overwrite, self.move, self.drop, self.map]
        self.choose.choice(actions)()

    def some(self) -> str:
        if not self.content:
            self.write()
        return self.choose.choice(sorted(self.content))

    def fresh(self) -> str:
        self.made += 1
        return f"new{self.made}"

    def write(self) -> None:
        """As programs save: a temporary file, renamed over the name."""
        name = self.choose.choice([*self.content, self.fresh()])
        data = self.choose.randbytes(self.choose.randrange(30_000))
        with open(f"{self.path}/.saving", "xb") as file:
            file.write(data)
        os.rename(f"{self.path}/.saving", f"{self.path}/{name}")
        self.content[name] = data

    def append(self) -> None:
        name, data = self.some(), self.choose.randbytes(self.choose.randrange(9000))
        with open(f"{self.path}/{name}", "ab") as file:
            file.write(data)
        self.content[name] += data

    def overwrite(self) -> None:
        name, data = self.some(), self.choose.randbytes(100)
        old = self.content[name]
        at = self.choose.randrange(len(old) + 50)
        with open(f"{self.path}/{name}", "r+b") as file:
            file.seek(at)
            file.write(data)
        self.content[name] = old[:at].ljust(at, b"\0") + data + old[at + len(data) :]

    def move(self) -> None:
        old, new = self.some(), self.fresh()
        os.mkdir(f"{self.path}/{new}.dir")
        os.rename(f"{self.path}/{old}", f"{self.path}/{new}.dir/{new}")
        shutil.copyfile(f"{self.path}/{new}.dir/{new}", f"{self.path}/{new}")
        os.unlink(f"{self.path}/{new}.dir/{new}")
        os.rmdir(f"{self.path}/{new}.dir")
        self.content[new] = self.content.pop(old)

    def drop(self) -> None:
        name = self.some()
        with open(f"{self.path}/{name}", "rb") as file:
            os.unlink(f"{self.path}/{name}")
            assert file.read() == self.content.pop(name)

    def map(self) -> None:
        name = self.some()
        old = self.content[name]
        if old:
            with open(f"{self.path}/{name}", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
                assert mapping[:] == old
                mapping[0:1] = b"M"
            self.content[name] = b"M" + old[1:]

    def check(self) -> None:
        assert sorted(os.listdir(self.path)) == sorted(self.content)
        for name, data in self.content.items():
            with open(f"{self.path}/{name}", "rb") as file:
                assert file.read() == data, f"{self.path}/{name} is not what its owner wrote"


def lower_content(process: int, name: int) -> bytes:
    return f"{process} {name}|".encode() * 3000


def run(number: int, steps: int, *, union: bool, kernel: bool = False) -> dict[str, bytes]:
    """The life of one process in the working directory; returns what its own directory must hold."""
    choose = random.Random(number)
    own = Own(number, choose)
    names = list(SHARED)
    for step in range(steps):
        if choose.random() < 0.3:
            own.step()
            continue
        name = choose.choice(names)
        allowed = SHARED[name].errors | (UNION_ONLY.get(name, set()) if union else set())
        allowed |= KERNEL_ONLY if kernel else set()
        try:
            SHARED[name].act(choose)
        except OSError as error:
            if error.errno not in allowed:
                raise AssertionError(f"step {step}: {name} gave {errno.errorcode[error.errno or 0]}") from error
    own.check()
    return own.content
