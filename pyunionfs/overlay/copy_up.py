"""Copy-up: give an object of a lower layer its own copy in the upper directory (fs/overlayfs/copy_up.c).

It never tears: parents first, then data and metadata are built in the work directory, times last, and one
rename publishes the result. Data is copied outside of the namespace lock, so that a large file delays only
those who want to change that file.
"""

import errno
import os
import stat
from collections.abc import Iterator, Set
from contextlib import contextmanager

from .. import events
from .copy_data import copy_data
from .inode import Inode
from .layer import Backing
from .super import Superblock
from .workdir import Workdir

_ACL = "system.posix_acl_"
_MUST_COPY = ("security.", _ACL)  # ovl_must_copy_xattr


def copy_up(sb: Superblock, inode: Inode, *, size: int | None = None) -> None:
    """Make sure that an inode has an upper object.

    ``size`` bounds the data to copy: 0 for a file that is about to be emptied. Raises EROFS in a union
    without an upper layer, and whatever the copying met (ENOSPC, EDQUOT, EACCES); nothing is left then.
    """
    if inode.upper is not None:
        return
    sb.writable()
    if stat.S_ISREG(inode.type):
        with sb.copying(inode):
            if inode.upper is None:
                _copy_up_regular(sb, inode, size)
        return
    with sb.lock:
        if inode.upper is None:
            _copy_up_other(sb, inode)


def _parent_up(sb: Superblock, inode: Inode) -> Backing:
    """The upper directory of an inode's parent, with all of the chain above it copied up."""
    chain: list[Inode] = []
    node = inode.parent
    while node is not None and node.upper is None:
        chain.append(node)
        node = node.parent
    for directory in reversed(chain):
        _copy_up_other(sb, directory)
    assert inode.parent is not None and inode.parent.upper is not None
    return inode.parent.upper


def _copy_up_regular(sb: Superblock, inode: Inode, size: int | None) -> None:
    _, workdir = sb.writable()
    source = inode.lower[0]
    with sb.lock:
        if not inode.unlinked:
            _parent_up(sb, inode)
        st = source.stat()
        metadata = _Metadata(sb, source, st)
        try:
            source_fd = source.open(os.O_RDONLY | os.O_NOATIME)
        except PermissionError:
            source_fd = source.open(os.O_RDONLY)
    length = st.st_size if size is None else min(size, st.st_size)
    try:
        with workdir.temp() as temp:
            dir_fd, name = temp.at()
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(name, flags, 0o600, dir_fd=dir_fd)
            try:
                copy_data(source_fd, fd, length)
                metadata.apply(temp)
                os.fsync(fd)  # or a crash after the rename could show an empty file (ovl_copy_up_file)
                with sb.lock:
                    _publish(sb, inode, temp, length)
                    sb.files.put(inode, fd, writable=True)
            except BaseException:
                os.close(fd)
                raise
    finally:
        os.close(source_fd)


def _copy_up_other(sb: Superblock, inode: Inode) -> None:
    """A directory, symlink, fifo, socket or device: short, so all of it runs under the namespace lock."""
    _, workdir = sb.writable()
    source = inode.lower[0]
    st = source.stat()
    if not inode.unlinked:
        _parent_up(sb, inode)
    with workdir.temp() as temp:
        dir_fd, name = temp.at()
        if inode.is_dir:
            os.mkdir(name, 0o700, dir_fd=dir_fd)
        elif stat.S_ISLNK(inode.type):
            os.symlink(source.readlink(), name, dir_fd=dir_fd)
        else:
            os.mknod(name, inode.type | 0o600, st.st_rdev, dir_fd=dir_fd)
        _Metadata(sb, source, st).apply(temp)
        _publish(sb, inode, temp, 0)


def _publish(sb: Superblock, inode: Inode, temp: Backing, length: int) -> None:
    """Rename the finished copy into place, keeping the parent's times; or pin it, if the name is gone."""
    _, workdir = sb.writable()
    if inode.unlinked:
        dir_fd, name = temp.at()
        temp.pin()
        (os.rmdir if inode.is_dir else os.unlink)(name, dir_fd=dir_fd)
    else:
        assert inode.parent is not None and inode.parent.upper is not None
        parent = inode.parent.upper
        mark_impure(sb, inode.parent)
        times = parent.stat()
        _install(workdir, temp, parent, inode.name)
        try:
            parent.utime(times.st_atime_ns, times.st_mtime_ns)
        except PermissionError:
            pass  # a directory of somebody else: best effort, as in the kernel; the copy is there
    layer = inode.lower[0].layer
    inode.upper = temp
    if not inode.is_dir:
        inode.lower = ()
    sb.files.discard(inode)
    if sb.stale is not None:  # ctime, blocks, nlink and perhaps st_ino are those of the copy now
        sb.stale(inode.ino)
        if inode.parent is not None:
            sb.stale(inode.parent.ino)
    sb.emit(events.CopyUp(inode.path(), length, layer.index))


def _install(workdir: Workdir, temp: Backing, parent: Backing, name: bytes) -> None:
    """Rename a copy into place, also where directories of our own have no write permission: the caller writes to
    an object, not to the directories above it. Root needs none of this."""
    try:
        workdir.install(temp, parent, name)
    except PermissionError:
        with _made_writable(parent), _made_writable(temp):
            workdir.install(temp, parent, name)


@contextmanager
def _made_writable(directory: Backing) -> Iterator[None]:
    st = directory.stat()
    mode = stat.S_IMODE(st.st_mode)
    if not stat.S_ISDIR(st.st_mode) or st.st_uid != os.geteuid() or mode & 0o300 == 0o300:
        yield
        return
    directory.chmod(mode | 0o300)
    try:
        yield
    finally:
        directory.chmod(mode)


def mark_impure(sb: Superblock, directory: Inode) -> None:
    """Note on an upper directory that entries in it have an origin (ovl_set_impure)."""
    if not directory.impure and directory.upper is not None:
        _try_setxattr(directory.upper, sb.marks.impure, b"y")
        directory.impure = True


def _try_setxattr(backing: Backing, name: str, value: bytes) -> None:
    """Set a mark that only makes inode numbers constant: worth nothing on a filesystem that cannot."""
    try:
        backing.setxattr(name, value)
    except OSError as error:
        # EPERM: user.* is not for symlinks and special files; EACCES: nor for what we may not write to.
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES):
            raise


class _Metadata:
    """What a copy takes over besides its data; read under the namespace lock, applied outside of it."""

    def __init__(self, sb: Superblock, source: Backing, st: os.stat_result) -> None:
        self._st = st
        self._namespace = sb.marks
        self._xattrs = {name: source.getxattr(name) for name in source.listxattr() if not sb.marks.is_private(name)}
        # None for one of several hard links: the copy is no longer the same object as the others.
        self._origin: bytes | None = None
        if stat.S_ISDIR(st.st_mode) or st.st_nlink == 1:
            origin = source.layer.make_origin(source)
            self._origin = origin.encode() if origin is not None else b""

    def apply(self, copy: Backing) -> None:
        """Owner first (chown clears setuid and capabilities), xattrs before the mode (which may forbid them to an
        ordinary user), the ACL after the mode (which it refines), times last."""
        st = self._st
        mine = copy.stat()
        if (mine.st_uid, mine.st_gid) != (st.st_uid, st.st_gid):
            copy.chown(st.st_uid, st.st_gid)
        acls = {name for name in self._xattrs if name.startswith(_ACL)}
        self._set_xattrs(copy, self._xattrs.keys() - acls)
        if self._origin is not None:
            _try_setxattr(copy, self._namespace.origin, self._origin)
        if not stat.S_ISLNK(st.st_mode):
            copy.chmod(stat.S_IMODE(st.st_mode))
        self._set_xattrs(copy, acls)
        copy.utime(st.st_atime_ns, st.st_mtime_ns)

    def _set_xattrs(self, copy: Backing, names: Set[str]) -> None:
        for name in names:
            try:
                copy.setxattr(name, self._xattrs[name])
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP or name.startswith(_MUST_COPY):
                    raise
