"""The superblock: what one mount consists of, opened and checked (fs/overlayfs/super.c).

Opening checks what the kernel checks, and says in one sentence what is wrong: a lower layer that is used
twice or lies in another layer, in the upper or in the work directory (ELOOP), an upper and a work directory
that contain each other or are on different mounts (EINVAL), directories that another mount uses (EBUSY).
"""

import errno
import fcntl
import os
import resource
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from .. import events, linux
from ..vfs import Ino, Journal
from . import marks
from .backing import Backing
from .file import OpenFiles
from .index import Index
from .inode import Inode, InodeTable, Prepared
from .layer import DirFds, Layer
from .ownership import Ownership, read_override
from .params import Params
from .workdir import Workdir, lock_directory, name_union

_USEFUL_LIMIT = 1 << 16  # some machines allow a thousand million
_RESERVE = 64  # descriptors left for everything else in the process


class Superblock:
    """The layers, the work directory, the options and the inodes of one union.

    Two kinds of locks, taken in this order: :meth:`copying` for one inode while its data is copied, then
    ``lock``, the namespace lock, for short system calls only.
    """

    def __init__(
        self,
        lower: Sequence[bytes],
        upper: bytes | None,
        work: bytes | None,
        params: Params,
        *,
        data: Sequence[bytes] = (),
        namespace: marks.Namespace = marks.TRUSTED,
        adopt: Sequence[int] | None = None,
    ) -> None:
        self.params = params
        self.marks = marks.USER if params.userxattr else namespace
        self.lock = threading.RLock()
        self.table = InodeTable()
        self.prepared = Prepared()
        self.listeners: list[events.Listener] = []
        self.stale: Callable[[Ino], None] | None = None  # see vfs.Operations
        self.interrupted: Callable[[], bool] | None = None  # likewise
        self.journal: Journal | None = None  # likewise
        self.upper: Layer | None = None
        self.workdir: Workdir | None = None
        self.index: Index | None = None
        self.name_max = 255
        self.ownership: Ownership | None = None  # None: people see what the layers have
        self.traps: set[tuple[int, int]] = set()  # our own directories, by (st_dev, st_ino)
        self.locks: list[int] = []  # descriptors
        self._held: list[int] = []  # and those that hold mounts
        self._copying: dict[Inode, tuple[threading.Lock, int]] = {}  # with its users
        if upper is not None and work is None:
            work = default_work(upper)
        self.work = work
        if not lower:
            raise OSError(errno.EINVAL, "a union needs at least one lower layer")
        budget = max(_descriptor_limit() - 2 * len(lower) - 2 * len(data) - _RESERVE, 32)
        self.fds = DirFds(budget // 3)
        self.files = OpenFiles(self, budget // 3)
        self.lower: list[Layer] = []
        self.data: list[Layer] = []  # below them, and looked at for the data of metacopies only
        try:
            for layers, paths in ((self.lower, lower), (self.data, data)):
                layers.extend(_open_lower(path, self.fds) for path in paths)
            _check_overlap(self.lower + self.data, upper, work)  # before the work directory is touched
            if upper is not None:
                assert work is not None
                self._open_upper(upper, work, adopt)
            else:
                self._number_layers()
        except BaseException:
            self.close()
            raise

    @property
    def layers(self) -> list[Layer]:
        """All layers, top to bottom."""
        return ([self.upper] if self.upper is not None else []) + self.lower + self.data

    def writable(self) -> tuple[Layer, Workdir]:
        """The upper layer and its work directory. EROFS where the union has none."""
        if self.upper is None or self.workdir is None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return self.upper, self.workdir

    def is_private(self, xattr: str) -> bool:
        """Whether an xattr on disk is a mark, and no user's."""
        return self.marks.is_private(xattr) or (self.params.dialects and marks.Dialect.is_private(xattr))

    def emit(self, event: events.Event) -> None:
        for listener in self.listeners:
            listener(event)

    @contextmanager
    def copying(self, inode: Inode) -> Iterator[None]:
        """Hold the lock under which the data of one inode is copied."""
        with self.lock:
            lock, users = self._copying.get(inode, (threading.Lock(), 0))
            self._copying[inode] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self.lock:
                _, users = self._copying.pop(inode)
                if users > 1:  # who waits, and who comes after them, must meet at the same lock
                    self._copying[inode] = lock, users - 1

    def is_copying(self, inode: Inode) -> bool:
        return inode in self._copying

    def close(self) -> None:
        self.files.close()
        for inode in self.table:
            for backing in (inode.upper, *inode.lower):
                if backing is not None:
                    backing.drop()
        self.fds.close()
        if self.workdir is not None:
            self.workdir.close()
        if self.index is not None:
            self.index.close()
        for layer in self.layers:
            layer.close()
        for fd in self._held + self.locks:
            os.close(fd)
        self.lower, self.data, self._held, self.locks = [], [], [], []
        self.upper = self.workdir = self.index = None

    # -- opening -------------------------------------------------------------------------------------

    def _open_upper(self, upper: bytes, work: bytes, adopt: Sequence[int] | None) -> None:
        upper_real, work_real = os.path.realpath(upper), os.path.realpath(work)
        if _contains(upper_real, work_real) or _contains(work_real, upper_real):
            raise OSError(errno.EINVAL, "the work and the upper directory must be separate subtrees")
        top = os.path.commonpath([upper_real, work_real])
        base = Layer.open(top, self.fds, writable=True)
        self._held.append(base.root.fd)
        upper_fd = _open_below(base, os.path.relpath(upper_real, top), upper)
        self.upper = Layer(upper, upper_fd, self.fds, cloned=base.cloned, writable=True)
        work_fd = _open_below(base, os.path.relpath(work_real, top), work)
        self._held.append(work_fd)
        if os.fstat(upper_fd).st_dev != os.fstat(work_fd).st_dev:
            raise OSError(errno.EINVAL, "the work and the upper directory must be on the same filesystem")
        if adopt is not None:
            self.locks = list(adopt)
        else:
            self.locks.append(lock_directory(upper, upper_fd, "upper"))
            self.locks.append(lock_directory(work, work_fd, "work"))
        self.traps = {(st.st_dev, st.st_ino) for st in map(os.fstat, (upper_fd, work_fd))}
        self._number_layers()
        work_dir = Backing(self.upper, None, b".")
        work_dir.fd = work_fd
        if adopt is not None:
            self.workdir = Workdir.adopt(work_dir)
        else:
            self.workdir = Workdir.prepare(work_dir, volatile=self.params.volatile)
        if not self.workdir.keeps_xattrs(self.marks):  # as on a kernel: without them these cannot be
            self.params = replace(self.params, redirect_dir="nofollow", metacopy=False, index=False)
            return
        if self.params.index:
            prepare = Index.prepare if adopt is None else Index.adopt
            self.index = prepare(work_dir, self.upper, self.lower, self.marks)
        name_union(self.upper.root, self.marks, self.params.uuid)

    def _number_layers(self) -> None:
        devices: dict[int, int] = {}
        for index, layer in enumerate(self.layers):
            layer.index = index
            layer.fsid = devices.setdefault(layer.dev, len(devices))
            if self.params.uuid == "off":
                layer.forget_uuid()
            if self.params.xattr_permissions:
                layer.override = read_override(layer.root)
        rules = Ownership(self.params, self.layers, self.upper)
        self.ownership = None if rules.plain and not self.params.xattr_permissions else rules
        self.name_max = max(os.fstatvfs(layer.root.fd).f_namemax for layer in self.layers)


def default_work(upper: bytes) -> bytes:
    """The work directory of an upper directory for which none was named: a hidden sibling, made if needed."""
    if not os.path.isdir(upper):  # then nothing should be made beside it either
        raise OSError(errno.ENOENT, f"upper directory {os.fsdecode(upper)} does not exist")
    head, tail = os.path.split(os.path.realpath(upper))
    work = os.path.join(head, b"." + tail + b".work")
    try:
        os.mkdir(work, 0o700)
    except FileExistsError:
        st = os.lstat(work)
        if not stat.S_ISDIR(st.st_mode) or st.st_uid != os.geteuid():
            raise OSError(
                errno.EPERM, f"work directory {os.fsdecode(work)} is not yours: name another one"
            ) from None
    return work


def is_privileged() -> bool:
    """Whether this process has CAP_SYS_ADMIN over the initial user namespace, as trusted.* needs."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"CapEff:") and not int(line.split()[1], 16) & (1 << 21):
                return False
    with open("/proc/self/uid_map", "rb") as uid_map:
        return uid_map.read().split() == [b"0", b"0", b"4294967295"]


def _descriptor_limit() -> int:
    """Raise the soft limit of descriptors as far as is allowed and of use; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _USEFUL_LIMIT if hard == resource.RLIM_INFINITY else min(hard, _USEFUL_LIMIT)
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    _enlarge_table(limit)
    return limit


def _enlarge_table(limit: int) -> None:
    """Have room for so many descriptors from the beginning. The kernel doubles the table when it is full, and where
    threads share it waits each time until no processor looks at the old one (expand_fdtable in fs/file.c): that
    is 10 ms and more, in the middle of a request."""
    reading, writing = os.pipe()
    try:
        os.close(fcntl.fcntl(reading, fcntl.F_DUPFD_CLOEXEC, limit - 1))
    except OSError as error:
        if error.errno != errno.EMFILE:  # the last one is in use, so there is room
            raise
    finally:
        os.close(reading)
        os.close(writing)


def _open_lower(path: bytes, fds: DirFds) -> Layer:
    try:
        return Layer.open(path, fds)
    except OSError as error:
        raise OSError(error.errno, f"lower layer {os.fsdecode(path)}: {error.strerror}") from None


def _open_below(base: Layer, relative: bytes, path: bytes) -> int:
    """Open a directory by its way below ``base``; what is mounted on the way is another mount."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        real = os.stat(path)
        fd = linux.openat2(base.root.fd, relative, flags, resolve=linux.RESOLVE_NO_XDEV)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise _other_mount() from None
        raise OSError(error.errno, f"directory {os.fsdecode(path)}: {error.strerror}") from None
    if not os.path.samestat(real, os.fstat(fd)):  # in a clone, what other mounts hide comes to light
        os.close(fd)
        raise _other_mount()
    return fd


def _other_mount() -> OSError:
    return OSError(errno.EINVAL, "the work and the upper directory must be under the same mount")


def _contains(outer: bytes, inner: bytes) -> bool:
    return inner == outer or inner.startswith(outer.rstrip(b"/") + b"/")


def _check_overlap(lower: Sequence[Layer], upper: bytes | None, work: bytes | None) -> None:
    """No lower layer may be, or lie in, another layer (ovl_check_overlapping_layers). An upper directory may lie
    in a lower layer; it is a trap there (:attr:`Superblock.traps`)."""
    taken = {os.path.realpath(path): what for path, what in ((upper, "upper"), (work, "work")) if path is not None}
    for layer in lower:
        real = os.path.realpath(layer.path)
        if taken.get(real) == "lower":
            raise OSError(errno.ELOOP, f"lower layer {os.fsdecode(layer.path)} is given twice")
        taken.setdefault(real, "lower")
    for layer in lower:
        real = os.path.realpath(layer.path)
        for other, what in taken.items():
            if _contains(other, real) and (other != real or what != "lower"):
                raise OSError(
                    errno.ELOOP,
                    f"lower layer {os.fsdecode(layer.path)} overlaps the {what} directory {os.fsdecode(other)}",
                )
