"""One directory tree: its root, its place in the stack, and how many of its directories are held open.

The objects in it are of ``backing.py``. Directory descriptors are ``O_PATH`` and kept in a bounded LRU.

A layer is never crossed into another mount, as in the kernel (clone_private_mount): with CAP_SYS_ADMIN its root
is a private clone of the mount (open_tree), in which nothing else is mounted; otherwise each look-up is made with
RESOLVE_NO_XDEV, and a name with another filesystem mounted on it is not there.
"""

import errno
import os
from collections import OrderedDict

from .. import linux
from .backing import Backing
from .marks import Origin


class DirFds:
    """The directories that hold an open descriptor: at most ``budget``, the longest unused closed first."""

    def __init__(self, budget: int) -> None:
        self._budget = max(budget, 16)
        self._open: OrderedDict[Backing, None] = OrderedDict()
        self.pinned = 0  # objects without a name, which are not closed to make room

    def can_pin(self) -> bool:
        """Whether enough is left for everything else."""
        return self.pinned < self._budget

    def __len__(self) -> int:
        return len(self._open)

    def touch(self, directory: Backing) -> None:
        self._open.move_to_end(directory)

    def add(self, directory: Backing) -> None:
        self._open[directory] = None
        if len(self._open) > self._budget:
            oldest, _ = self._open.popitem(last=False)
            os.close(oldest.fd)
            oldest.fd = -1

    def close(self) -> None:
        """Close all: also those that no inode leads to, as on the way of a redirect."""
        for directory in self._open:
            os.close(directory.fd)
            directory.fd = -1
        self._open.clear()

    def discard(self, directory: Backing) -> None:
        """Stop tracking a directory; the descriptor, if any, is the caller's now."""
        self._open.pop(directory, None)


class Layer:
    """A layer's root, its place in the stack and what its filesystem is."""

    __slots__ = (
        "_io_fd",
        "_uuid",
        "cloned",
        "dev",
        "fds",
        "fsid",
        "index",
        "override",
        "path",
        "root",
        "writable",
    )

    def __init__(self, path: bytes, root_fd: int, fds: DirFds, *, cloned: bool, writable: bool = False) -> None:
        self.path = path  # as the user knows it, for messages
        self.index = 0  # 0 is the topmost layer
        self.fsid = 0  # layers on one filesystem share it
        self.dev = os.fstat(root_fd).st_dev
        self.cloned = cloned
        self.override: str | None = None  # the xattr that holds owners and modes, see ownership.py
        self.writable = writable
        self.fds = fds
        self.root = Backing(self, None, b".")
        self.root.fd = root_fd
        self._io_fd = -1
        self._uuid: bytes | None = None

    @classmethod
    def open(cls, path: bytes, fds: DirFds, *, writable: bool = False) -> "Layer":
        """Open a layer; a clone is made read-only unless told otherwise. Raises the OSError of the path."""
        try:
            fd = linux.open_tree(linux.AT_FDCWD, path, linux.OPEN_TREE_CLONE)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EINVAL, errno.ENOSYS):
                raise
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            return cls(path, fd, fds, cloned=False, writable=writable)
        _protect(fd, writable=writable)
        return cls(path, fd, fds, cloned=True, writable=writable)

    def close(self) -> None:
        os.close(self.root.fd)
        if self._io_fd >= 0:
            os.close(self._io_fd)

    def io_fd(self) -> int:
        """A descriptor of the root that is not O_PATH, for the calls that need one."""
        if self._io_fd < 0:
            self._io_fd = os.open(b"/proc/self/fd/%d" % self.root.fd, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._io_fd

    def uuid(self) -> bytes:
        """UUID of the filesystem, zeros where it has none (uuid_is_null in ovl_fb)."""
        if self._uuid is None:
            self._uuid = linux.filesystem_uuid(self.io_fd()) or bytes(16)
        return self._uuid

    def forget_uuid(self) -> None:
        """Write and accept marks without the UUID of the filesystem (uuid=off): of copied filesystems, say."""
        self._uuid = bytes(16)

    def make_origin(self, backing: Backing, *, upper: bool = False) -> Origin | None:
        """The mark that names an object of this layer, None where the filesystem has no handles."""
        try:
            return Origin(*linux.name_to_handle_at(*backing.at()), self.uuid(), upper)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EOVERFLOW, errno.EACCES):
                return None
            raise

    def find_origin(self, origin: Origin) -> os.stat_result | None:
        """Attributes of the object that a mark names; None if it is not here or gone.

        Without CAP_DAC_READ_SEARCH, only the type of the handle and its inode number can be read: then nothing
        but ``st_ino`` is true, and ``st_nlink`` is 1.
        """
        if origin.uuid != self.uuid():
            return None
        try:
            fd = linux.open_by_handle_at(self.io_fd(), origin.kind, origin.handle, os.O_PATH)
        except PermissionError:
            ino = origin.plain_ino()
            return os.stat_result((0, ino, self.dev, 1, 0, 0, 0, 0, 0, 0)) if ino else None
        except OSError as error:
            if error.errno in (errno.ESTALE, errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP):
                return None
            raise
        try:
            st = os.fstat(fd)
            return st if st.st_dev == self.dev else None
        finally:
            os.close(fd)


def _protect(clone: int, *, writable: bool) -> None:
    """Have nothing change a lower layer, not even its atimes, as the kernel does (ovl_get_layers); and open no
    device of any layer: the kernel does that for those who open it in the union."""
    lower = linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOATIME
    try:
        linux.mount_setattr(
            clone,
            set_=linux.MOUNT_ATTR_NODEV | (0 if writable else lower),
            clear=0 if writable else linux.MOUNT_ATTR__ATIME,
        )
    except OSError as error:
        # Linux 5.11 and older cannot; a user namespace may not where the mount's flags are locked.
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            os.close(clone)
            raise
