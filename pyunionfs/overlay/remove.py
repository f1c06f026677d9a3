"""Taking a name from a directory, unlink and rmdir, and letting go of what nobody holds (fs/overlayfs/dir.c).

All of this runs under the namespace lock. Parents are copied up here.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from .. import events, linux
from . import marks
from .backing import Backing, RemovedDirectory
from .copy_up import copy_up, link_up
from .held import note
from .inode import Inode
from .lookup import find
from .readdir import is_empty
from .search import lower_positive
from .super import Superblock


@contextmanager
def losing_name(sb: Superblock, inode: Inode, parent: Inode, name: bytes) -> Iterator[None]:
    """Around the system call by which an inode loses a name.

    Who still holds the inode keeps its backing object: by another of its names, by the index, or pinned by a
    descriptor. If the call fails, nothing has changed.
    """
    upper = inode.upper
    others = (inode.aliases or set()) - {(parent, name)}
    survives = inode.nlink > 1 if inode.indexed else bool(others)
    entry = upper.name if upper is not None else b""
    before = (upper.parent, upper.name, upper.fd) if upper is not None else None
    removed: RemovedDirectory | None = None
    if upper is not None and not survives:
        removed = _pin(upper, is_dir=inode.is_dir)
    elif upper is not None and (upper.parent, upper.name) == (parent.upper, name):
        other_parent, other_name = next(iter(others))
        upper.parent, upper.name = other_parent.upper, other_name
    note(sb, inode, also_at=next(iter(others)) if survives and others else None, losing=True)
    try:
        yield
    except BaseException:
        if upper is not None and before is not None:
            parent_before, name_before, fd_before = before
            if fd_before < 0:
                upper.drop()
            elif upper.parent is None:
                upper.layer.fds.pinned -= 1
            upper.parent, upper.name = parent_before, name_before
            if fd_before >= 0:
                upper.layer.fds.add(upper)
        note(sb, inode)
        raise
    if removed is not None:
        inode.upper = removed
    parent.loses(name)
    if inode.indexed:
        inode.nlink -= 1
    if inode.aliases is not None and survives:
        inode.aliases.discard((parent, name))
        if others and (inode.parent, inode.name) == (parent, name):
            inode.parent, inode.name = next(iter(others))
    if not survives:
        inode.unlinked = True
        if inode.indexed and sb.index is not None:
            sb.index.remove(entry)
    if parent.children_of().get(name) is inode:
        del parent.children_of()[name]
    note(sb, inode)
    release(sb, inode, 0)


def _pin(upper: Backing, *, is_dir: bool) -> RemovedDirectory | None:
    """Hold an object that is about to lose its name. A whole chain of directories may be removed while somebody
    holds the deepest: where descriptors run out for them, what an empty directory is is remembered.
    """
    if is_dir and not upper.layer.fds.can_pin():
        return RemovedDirectory(upper)
    upper.pin()
    return None


def release(sb: Superblock, inode: Inode, count: int) -> None:
    """Take back lookup counts, and close what nobody holds any more."""
    for dropped in sb.table.forget(inode, count):
        if sb.journal is not None:
            sb.journal.drop(dropped.ino)
        sb.files.discard(dropped)
        for backing in (dropped.upper, *dropped.lower):
            if backing is not None:
                backing.drop()


def unlink(sb: Superblock, parent: Inode, name: bytes) -> None:
    """Remove a name of anything but a directory (ovl_unlink)."""
    inode = removable(sb, parent, name)
    if inode.is_dir:
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    copy_up(sb, parent)
    assert parent.upper is not None
    if inode.indexed:
        link_up(sb, inode, parent, name)
    if not lower_positive(sb, parent, name):
        with losing_name(sb, inode, parent, name):
            os.unlink(name, dir_fd=parent.upper.dir_fd())
        return
    _, workdir = sb.writable()
    with losing_name(sb, inode, parent, name):
        workdir.whiteout(parent.upper, name, replace=inode.upper is not None)
    sb.emit(events.Whiteout(parent.path_of(name)))


def rmdir(sb: Superblock, parent: Inode, name: bytes) -> None:
    """Remove an empty directory; whiteouts in it do not count (ovl_rmdir)."""
    inode = removable(sb, parent, name)
    if not inode.is_dir:
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
    if not is_empty(sb, inode):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), name)
    copy_up(sb, parent)
    assert parent.upper is not None
    _, workdir = sb.writable()
    if not lower_positive(sb, parent, name):
        with losing_name(sb, inode, parent, name):
            remove_upper_dir(sb, parent.upper, name)
        return
    with losing_name(sb, inode, parent, name):
        workdir.whiteout(parent.upper, name, replace=inode.upper is not None, directory=True)
    sb.emit(events.Whiteout(parent.path_of(name)))


def removable(sb: Superblock, parent: Inode, name: bytes) -> Inode:
    """The inode of a name that is to be removed."""
    sb.writable()
    inode = find(sb, parent, name)
    if inode is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return inode


def remove_upper_dir(sb: Superblock, upper: Backing, name: bytes) -> None:
    """Remove a directory of the upper layer that holds nothing, or stale whiteouts only."""
    _, workdir = sb.writable()
    dir_fd = upper.dir_fd()
    try:
        os.rmdir(name, dir_fd=dir_fd)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        workdir.discard(upper, name)


def clear_upper_dir(sb: Superblock, inode: Inode) -> None:
    """Replace a merged directory that shows nothing by an empty opaque one, so that it can be renamed over
    (ovl_clear_empty)."""
    old = inode.upper
    assert old is not None and old.parent is not None
    _, workdir = sb.writable()
    st = old.stat()
    parent, name = old.parent, old.name
    with workdir.temp() as temp:
        dir_fd, temp_name = temp.at()
        os.mkdir(temp_name, 0o700, dir_fd=dir_fd)
        temp.chown(st.st_uid, st.st_gid)
        temp.chmod(stat.S_IMODE(st.st_mode))
        for xattr in old.listxattr():
            if not sb.is_private(xattr):
                temp.setxattr(xattr, old.getxattr(xattr))
        workdir.mark(temp, sb.marks.opaque, marks.OPAQUE_YES)
        temp.utime(st.st_atime_ns, st.st_mtime_ns)
        workdir.install(temp, parent, name, linux.RENAME_EXCHANGE)
        for backing in (old, *inode.lower):
            backing.drop()
        inode.upper, inode.lower = temp, ()
