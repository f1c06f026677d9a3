"""One object in one layer, and all I/O on it.

A :class:`Backing` is a name in a directory that is itself a Backing (struct path in the kernel). Every system
call is made relative to a descriptor of the containing directory, on one component, without following a symlink,
so that a hostile layer cannot lead us outside and a depth of thousands needs no long path.

All methods that take descriptors from the LRU run under the superblock's namespace lock.
"""

import errno
import os
import stat
from typing import TYPE_CHECKING

from .. import linux
from ..vfs import NOW

if TYPE_CHECKING:
    from .layer import Layer

_NOFOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | _NOFOLLOW


class Backing:
    """One object of a layer, by its containing directory and its name there.

    ``parent`` is None for the root of a layer, and for a pinned object: one that lost its last name and is
    held by its descriptor alone.
    """

    __slots__ = ("fd", "layer", "name", "open_fd", "parent")

    def __init__(self, layer: "Layer", parent: "Backing | None", name: bytes) -> None:
        self.layer = layer
        self.parent = parent
        self.name = name
        self.fd = -1  # O_PATH descriptor: of a directory, or of a pinned object
        self.open_fd = -1  # of a file that OpenFiles has open

    @classmethod
    def nameless(cls, layer: "Layer", fd: int) -> "Backing":
        """An object that has no name, held by a descriptor that is given up to it."""
        backing = cls(layer, None, b"")
        backing.fd = fd
        layer.fds.pinned += 1
        return backing

    def child(self, name: bytes) -> "Backing":
        """The object of that name in this directory, whether it exists or not."""
        return Backing(self.layer, self, name)

    def path(self) -> bytes:
        """Path from the layer's root, for messages and the views."""
        names: list[bytes] = []
        node = self
        while node.parent is not None:
            names.append(node.name)
            node = node.parent
        return b"/".join(reversed(names))

    # -- descriptors ---------------------------------------------------------------------------------

    def dir_fd(self) -> int:
        """An O_PATH descriptor of this directory, good until the namespace lock is released."""
        if self.fd >= 0:
            if self.parent is not None:
                self.layer.fds.touch(self)
            return self.fd
        chain = [self]
        node = self  # the topmost that is not open
        while (up := node.parent) is not None and up.fd < 0:
            chain.append(up)
            node = up
        assert node.parent is not None, "a layer's root is always open"
        # Only the last one is kept: so one call closes at most one other descriptor, never one just handed out.
        fd = node.parent.fd
        for directory in reversed(chain):
            try:
                opened = directory._open_at(fd, _DIRECTORY)
            finally:
                if directory is not node:
                    os.close(fd)
            fd = opened
        self.fd = fd
        self.layer.fds.add(self)
        return fd

    def _open_at(self, dir_fd: int, flags: int) -> int:
        if self.layer.cloned:
            return os.open(self.name, flags, dir_fd=dir_fd)
        try:
            return linux.openat2(dir_fd, self.name, flags, resolve=linux.RESOLVE_NO_XDEV)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise FileNotFoundError(errno.ENOENT, "another filesystem is mounted there", self.name) from None
            raise

    def at(self) -> tuple[int, bytes]:
        """``(dir_fd, name)`` for the *at system calls."""
        if self.parent is None:
            return self.fd, b"."
        return self.parent.dir_fd(), self.name

    def at_itself(self) -> tuple[int, bytes]:
        """As :meth:`at`, or the descriptor of the object with an empty path (AT_EMPTY_PATH)."""
        return (self.fd, b"") if self.fd >= 0 else self.at()

    def proc_path(self) -> bytes:
        """A path for the calls that have no *at form; its last component is not to be followed."""
        fd, name = self.at()
        return b"/proc/self/fd/%d/%s" % (fd, name)

    def _is_pinned(self) -> bool:
        return self.parent is None and self.layer.root is not self

    def _itself(self) -> int | bytes | None:
        """A way to the object that needs none of its names; None: it is to be found by its name."""
        if self.open_fd >= 0:
            return self.open_fd
        return self._pinned_path() if self._is_pinned() else None

    def _pinned_path(self) -> bytes:
        return b"/proc/self/fd/%d" % self.fd

    def open(self, flags: int) -> int:
        """Open a regular file for I/O, or a directory with O_DIRECTORY. The caller closes it.

        Raises ESTALE if something else has taken its place behind our back: opening a fifo would wait for its
        other end (O_NONBLOCK), and devices are not opened by their layers' mounts (:func:`_protect`).
        """
        if self._is_pinned():
            return os.open(self._pinned_path(), flags | os.O_CLOEXEC)
        fd, name = self.at()
        try:
            opened = os.open(name, flags | _NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.ELOOP, errno.ENODEV):
                raise _stale(name) from None
            raise
        kind = stat.S_IFMT(os.fstat(opened).st_mode)
        if kind != (stat.S_IFDIR if flags & os.O_DIRECTORY else stat.S_IFREG):
            os.close(opened)
            raise _stale(name)
        return opened

    def hold(self) -> int:
        """An O_PATH descriptor, which stays with the object wherever it goes. The caller closes it."""
        if self._is_pinned():
            return os.dup(self.fd if self.fd >= 0 else self.open_fd)
        fd, name = self.at()
        return os.open(name, os.O_PATH | _NOFOLLOW, dir_fd=fd)

    def pin(self) -> None:
        """Hold the object by a descriptor, because its name is about to go away."""
        if self._is_pinned() and self.fd >= 0:
            return
        if self.fd < 0:
            self.fd = self.hold()
        self.layer.fds.discard(self)
        self.layer.fds.pinned += 1
        self.parent = None

    def unpin(self, named: "Backing") -> None:
        """Take the name of another Backing of the same object, in place of the descriptor."""
        if self._is_pinned():
            os.close(self.fd)
            self.layer.fds.pinned -= 1
            self.fd = -1
            self.parent, self.name = named.parent, named.name

    def drop(self) -> None:
        """Close what this object holds open; it may be used again unless it was pinned."""
        if self.fd >= 0 and self is not self.layer.root:
            self.layer.fds.discard(self)
            self.layer.fds.pinned -= self._is_pinned()
            os.close(self.fd)
            self.fd = -1

    # -- metadata ------------------------------------------------------------------------------------

    def stat(self) -> os.stat_result:
        """lstat(2)."""
        if self.fd >= 0:
            return os.fstat(self.fd)
        if self.open_fd >= 0:
            return os.fstat(self.open_fd)
        fd, name = self.at()
        if self.layer.cloned:
            return os.stat(name, dir_fd=fd, follow_symlinks=False)
        # Looking at a mount point of our own would be a request to ourselves: so open it first, guarded.
        probe = self._open_at(fd, os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.fstat(probe)
        finally:
            os.close(probe)

    def readlink(self) -> bytes:
        if self._is_pinned():
            return os.readlink(b"", dir_fd=self.fd)
        fd, name = self.at()
        return os.readlink(name, dir_fd=fd)

    def scan(self) -> list[os.DirEntry[bytes]]:
        """The entries of this directory, without ``.`` and ``..``."""
        with os.scandir(b"/proc/self/fd/%d" % self.dir_fd()) as entries:
            return list(entries)

    def chown(self, uid: int, gid: int) -> None:
        """lchown(2); -1 keeps an id."""
        if (itself := self._itself()) is not None:
            os.chown(itself, uid, gid)
        else:
            fd, name = self.at()
            os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)

    def chmod(self, mode: int) -> None:
        """chmod(2) of anything but a symlink."""
        if (itself := self._itself()) is not None:
            os.chmod(itself, mode)
        else:
            opened = self.hold()  # no fchmodat(2) of Python's refuses to follow a symlink
            try:
                os.chmod(b"/proc/self/fd/%d" % opened, mode)
            finally:
                os.close(opened)

    def utime(self, atime_ns: int | None, mtime_ns: int | None) -> None:
        """utimensat(2); None leaves a time as it is, and ``vfs.NOW`` has the filesystem's clock say it."""
        itself = self._itself()
        if atime_ns in (None, NOW) or mtime_ns in (None, NOW):
            times = _timespec(atime_ns), _timespec(mtime_ns)
            if itself is not None:
                path = b"/proc/self/fd/%d" % itself if isinstance(itself, int) else itself
                linux.utimensat(path, *times, follow_symlinks=True)
            else:
                fd, name = self.at()
                linux.utimensat(name, *times, dir_fd=fd)
        elif itself is not None:
            os.utime(itself, ns=(atime_ns, mtime_ns))
        else:
            fd, name = self.at()
            os.utime(name, ns=(atime_ns, mtime_ns), dir_fd=fd, follow_symlinks=False)

    # -- extended attributes ---------------------------------------------------------------------------

    def getxattr(self, name: str) -> bytes:
        if (itself := self._itself()) is not None:
            return os.getxattr(itself, name)
        return os.getxattr(self.proc_path(), name, follow_symlinks=False)

    def find_xattr(self, name: str) -> bytes | None:
        """The value, or None if there is none or the filesystem has no such xattrs.

        EACCES means user.* of something that we may not read, whose content we could not serve anyway.
        """
        try:
            return self.getxattr(name)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.EACCES):
                return None
            raise

    def listxattr(self) -> list[str]:
        try:
            if (itself := self._itself()) is not None:
                return os.listxattr(itself)
            fd, name = self.at()
            if not linux.has_xattrs(fd, name):  # most objects of most layers have none, and this is cheaper
                return []
            return os.listxattr(b"/proc/self/fd/%d/%s" % (fd, name), follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return []
            raise

    def setxattr(self, name: str, value: bytes, flags: int = 0) -> None:
        if (itself := self._itself()) is not None:
            os.setxattr(itself, name, value, flags)
        else:
            os.setxattr(self.proc_path(), name, value, flags, follow_symlinks=False)

    def removexattr(self, name: str) -> None:
        if (itself := self._itself()) is not None:
            os.removexattr(itself, name)
        else:
            os.removexattr(self.proc_path(), name, follow_symlinks=False)


class RemovedDirectory(Backing):
    """A directory that has been removed while somebody holds it, where no descriptor is left to keep it by: nothing
    but its attributes, as they were."""

    __slots__ = ("_st",)

    def __init__(self, directory: Backing) -> None:
        super().__init__(directory.layer, None, b"")
        self._st = directory.stat()

    def stat(self) -> os.stat_result:
        return self._st

    def at(self) -> tuple[int, bytes]:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    dir_fd = hold = at  # type: ignore[assignment]
    proc_path = _pinned_path = at  # type: ignore[assignment]


def _stale(name: bytes) -> OSError:
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE), name)


def _timespec(time_ns: int | None) -> tuple[int, int]:
    if time_ns is None:
        return 0, linux.UTIME_OMIT
    return (0, linux.UTIME_NOW) if time_ns == NOW else divmod(time_ns, 10**9)
