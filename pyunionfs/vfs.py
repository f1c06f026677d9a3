"""What a filesystem is, to whoever serves it: the values and the one protocol between core and transport.

A transport (``transport/``) turns the kernel's requests into calls of :class:`Operations`; ``overlay/`` is
one implementation. Neither side imports the other. All calls are synchronous and raise ``OSError``; names
are ``bytes``, times are integer nanoseconds since the epoch, sizes are bytes.
"""

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, NewType, Protocol

Ino = NewType("Ino", int)
"""The handle on an inode that a transport holds (the kernel's nodeid). Not the ``st_ino`` that people see,
although it has the same value wherever it can: pyfuse3 sends one number for both."""

ROOT = Ino(1)

NOW = 1 << 63
"""As a time in :class:`SetAttr`: what the clock of the filesystem says (UTIME_NOW of utimensat(2))."""


class Attr(NamedTuple):
    """What stat(2) tells of an inode, and the handle to ask again."""

    ino: Ino
    st_ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int  # of 512 bytes
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class SetAttr(NamedTuple):
    """The attributes to change; None leaves one as it is."""

    mode: int | None = None  # permission bits
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    kill_suid: bool = False  # a new size by somebody without CAP_FSETID: setuid goes


class Caller(NamedTuple):
    """Who asks: credentials of the process behind a request.

    ``umask`` is still to be applied to the mode of what is created, unless the directory has a default ACL.
    """

    uid: int
    gid: int
    umask: int = 0


class DirEntry(NamedTuple):
    """One name of a merged listing."""

    name: bytes
    type: int  # the S_IFMT bits of its mode
    position: int  # where the listing goes on after it; greater than :data:`FIRST`
    st_ino: int = 0  # 0: only a look-up tells


FIRST = 2
"""The position of the first name in a listing: 1 and 2 come after ``.`` and ``..``, which a transport adds."""


class Extent(NamedTuple):
    """A part of a file, in bytes."""

    ino: Ino
    offset: int
    length: int


class Statfs(NamedTuple):
    """What statvfs(3) tells; sizes in blocks of ``frsize`` bytes."""

    bsize: int
    frsize: int
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    favail: int
    namemax: int


class Change(NamedTuple):
    """What a refresh may have changed of an inode: its attributes and data, and names in a directory."""

    ino: Ino
    directory: Ino
    names: tuple[bytes, ...]


class Held(NamedTuple):
    """An inode that a transport holds, and how another process finds it again."""

    ino: Ino
    lookups: int
    opens: int
    parent: Ino  # 0: it has no name
    name: bytes
    new_parent: Ino  # where it is instead, if a rename that had begun has happened; 0: none had
    new_name: bytes
    st_ino: int  # tells whether what is found is the same
    fd: int  # of its object, if its name is gone or may be; -1: none
    layer: int  # where its object is, if it is a lower one and its name is gone or may be
    path: bytes


class Journal(Protocol):
    """What is noted of held inodes, for a process that takes over after a sudden end of this one."""

    def note(self, held: Held) -> None:
        """The latest about an inode."""

    def note_named(self, ino: Ino, lookups: int, opens: int, parent: Ino, name: bytes, st_ino: int) -> None:
        """As :meth:`note`, of an inode that has its name and is not about to lose it."""

    def drop(self, ino: Ino) -> None:
        """Nobody holds it any more."""

    def note_exchange(self, unique: int, ino: Ino) -> None:
        """A request is about to exchange this inode with another one. What this thread noted before has been
        answered."""


class WouldWaitError(BlockingIOError):
    """EAGAIN: a call that may not wait would have to."""

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, os.strerror(errno.EAGAIN))


class NotCachedError(WouldWaitError):
    """It would have to wait for a disk. That has been asked, so soon it is no longer so."""


class Operations(Protocol):
    """A filesystem, by inode. Each method is one request; every error is an ``OSError`` with its errno.

    ``lookup``, ``mknod``, ``mkdir``, ``symlink``, ``link``, ``tmpfile`` and ``create`` each add one to the lookup
    count of the inode that they return, and ``readdirplus`` to those of all; :meth:`forget` takes counts back
    (FUSE: LOOKUP and FORGET).
    """

    stale: Callable[[Ino], None] | None
    """Called when attributes of an inode changed as a side effect of another request."""

    interrupted: Callable[[], bool] | None
    """Asked during what may take long: whether the caller has given up. The operation then raises EINTR."""

    journal: Journal | None
    """Told of every inode that is held, and before its name changes; None: nobody takes over."""

    def lookup(self, parent: Ino, name: bytes) -> Attr: ...
    def forget(self, ino: Ino, count: int) -> None: ...
    def getattr(self, ino: Ino) -> Attr: ...
    def setattr(self, ino: Ino, changes: SetAttr, caller: Caller) -> Attr: ...
    def readlink(self, ino: Ino) -> bytes: ...
    def mknod(self, parent: Ino, name: bytes, mode: int, rdev: int, caller: Caller) -> Attr: ...
    def mkdir(self, parent: Ino, name: bytes, mode: int, caller: Caller) -> Attr: ...
    def symlink(self, parent: Ino, name: bytes, target: bytes, caller: Caller) -> Attr: ...
    def link(self, ino: Ino, parent: Ino, name: bytes) -> Attr: ...
    def unlink(self, parent: Ino, name: bytes) -> None: ...
    def rmdir(self, parent: Ino, name: bytes) -> None: ...
    def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int) -> None: ...
    def create(self, parent: Ino, name: bytes, mode: int, caller: Caller) -> Attr:
        """Make a regular file and open it, as :meth:`open` does."""

    def open(self, ino: Ino, flags: int, caller: Caller) -> None:
        """Account for an open file; with O_TRUNC empty it. Reading and writing go by inode, not by handle."""

    def release(self, ino: Ino) -> None:
        """The end of an :meth:`open` or :meth:`create`."""

    def tmpfile(self, parent: Ino, mode: int, caller: Caller) -> Attr:
        """Make a regular file without a name (O_TMPFILE); :meth:`link` may give it one."""

    def read(self, ino: Ino, offset: int, size: int) -> bytes: ...
    def readinto(self, ino: Ino, offset: int, buffer: memoryview, *, wait: bool = True) -> int:
        """Read into a buffer; fewer bytes than it holds only at the end of the file.

        Without ``wait`` raises NotCachedError for what would have to come from a disk, and WouldWaitError where
        that cannot be told.
        """

    def write(
        self,
        ino: Ino,
        offset: int,
        data: bytes | memoryview,
        *,
        kill_suid: bool,
        sync: bool = False,
        wait: bool = True,
    ) -> int:
        """Write; ``kill_suid`` says that the writer lacks CAP_FSETID, ``sync`` that it opened with O_DSYNC.

        Without ``wait`` raises as :meth:`copy_file_range`, if it has to be copied up.
        """

    def fsync(self, ino: Ino, *, data_only: bool) -> None: ...
    def backing(self, ino: Ino) -> int | None:
        """A new descriptor of a file's data, to be read and written by others; None while the file may yet get
        another one, by a copy-up. The caller closes it.
        """

    def fallocate(self, extent: Extent, mode: int, *, kill_suid: bool) -> None:
        """As fallocate(2); EOPNOTSUPP for what the filesystem of the upper layer cannot."""

    def seek(self, ino: Ino, offset: int, whence: int) -> int:
        """As lseek(2) with SEEK_DATA or SEEK_HOLE."""

    def copy_file_range(
        self, source: Extent, target: Ino, offset: int, *, kill_suid: bool, wait: bool = True
    ) -> int:
        """As copy_file_range(2); returns how much was copied.

        Without ``wait`` raises NotCachedError for what would have to come from a disk, and WouldWaitError for what
        would take long.
        """

    def birth_time(self, ino: Ino) -> int | None:
        """When the backing object was made, in ns, None where its filesystem does not know (statx(2))."""

    def get_flags(self, ino: Ino, *, extended: bool) -> bytes:
        """The value of ioctl FS_IOC_GETFLAGS, or of FS_IOC_FSGETXATTR if ``extended`` (ioctl_iflags(2))."""

    def set_flags(self, ino: Ino, value: bytes, *, extended: bool) -> None:
        """The ioctl FS_IOC_SETFLAGS, or FS_IOC_FSSETXATTR if ``extended``."""

    def syncfs(self) -> None:
        """Write out everything, as syncfs(2)."""

    def readdir(self, ino: Ino, after: int = 0, count: int | None = None) -> Sequence[DirEntry]:
        """The merged listing after a position, without ``.`` and ``..``: all of it, or at most ``count`` names.

        A position is of a name, not of an opening: it means the same after other names came and went.
        """

    def readdirplus(
        self, ino: Ino, after: int, count: int, *, bare: bool = False
    ) -> Sequence[tuple[DirEntry, Attr | None]]:
        """As :meth:`readdir`, with the attributes of each name; None where they cannot be had. With ``bare`` only
        of those whose number is not known without."""

    def ahead(self, ino: Ino, *, keep: bool = True) -> Iterator[None]:
        """Prepare for a look-up of every name in a directory, a little at each step; whether that is done, begun or
        left in the middle changes nothing but how long the look-ups take. Without ``keep`` only the disk is
        read."""

    def data_ahead(self, ino: Ino) -> Iterator[None]:
        """Who read, copied or wrote to a file had to wait for it: have the disk read those that are likely to be
        wanted next, a little at each step."""

    def parent(self, ino: Ino) -> Ino:
        """The directory that ``..`` of a directory means."""

    def getxattr(self, ino: Ino, name: bytes) -> bytes: ...
    def setxattr(self, ino: Ino, name: bytes, value: bytes, flags: int) -> None: ...
    def listxattr(self, ino: Ino) -> list[bytes]: ...
    def removexattr(self, ino: Ino, name: bytes) -> None: ...
    def statfs(self) -> Statfs: ...
    def slow(self, ino: Ino, name: bytes | None = None, *, removing: bool = False) -> bool:
        """Whether changing this inode (or this child of it) may take long, so that a loop should not wait."""

    def refresh(self) -> Sequence[Change]:
        """Look again at what others may have changed; returns what the kernel may hold that is no longer so."""

    def restore(self, held: Mapping[Ino, Held]) -> None:
        """Hold again what another process held that has died.

        The union must be as it was opened, before any other call.
        """

    def close(self) -> None: ...
