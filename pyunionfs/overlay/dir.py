"""Changing what names a directory has: create, link, unlink, rmdir (fs/overlayfs/dir.c).

All of this runs under the namespace lock. Parents are copied up here (they are directories, so it is short);
a file that is to be linked has been copied up before.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from .. import events, linux
from ..vfs import Caller
from . import marks
from .backing import Backing, RemovedDirectory
from .copy_up import copy_up, link_up, mark_impure
from .held import note
from .inode import Inode
from .listing import Listing
from .lookup import check_new_name, find
from .merge import Kind
from .ownership import Owner
from .readdir import is_empty
from .redirect import set_redirect
from .search import peek
from .super import Superblock

_ACL_DEFAULT = "system.posix_acl_default"
Make = Callable[[int, bytes, int], None]
"""Makes the bare object at ``(dir_fd, name)`` with the permission bits that are the third argument."""


# -- what is there -----------------------------------------------------------------------------------------


def upper_kind(sb: Superblock, parent: Inode, name: bytes) -> Kind:
    """What the upper directory itself has under a name: ABSENT, WHITEOUT or OTHER."""
    return Kind.ABSENT if parent.upper is None else peek(sb, parent.upper, name, parent.xattr_whiteouts)


def lower_positive(sb: Superblock, parent: Inode, name: bytes) -> bool:
    """Whether the name would show through from below without its upper object (ovl_lower_positive)."""
    for directory in parent.lower:
        kind = peek(sb, directory, name, parent.xattr_whiteouts)
        if kind is not Kind.ABSENT:
            return kind is not Kind.WHITEOUT
    return False


# -- create ------------------------------------------------------------------------------------------------


def create(
    sb: Superblock, parent: Inode, name: bytes, mode: int, caller: Caller, make: Make
) -> tuple[Inode, os.stat_result]:
    """Make an object by ``make`` with the given mode (type and permissions) and its owner (ovl_create_object).

    Returns its inode and its attributes. Raises EEXIST, ENOENT in a removed directory, EROFS.
    """
    upper = _prepare(sb, parent, name)
    if mode & caller.umask and not stat.S_ISLNK(mode) and upper.find_xattr(_ACL_DEFAULT) is None:
        mode &= ~caller.umask
    new = None
    if sb.ownership is None and not sb.params.dialects and _is_born_right(upper.stat(), mode, caller):
        new = _make_in_place(sb, parent, name, mode, make)
    if new is None:
        new = _make_aside(sb, parent, name, mode, caller, make)
    return _new_inode(sb, parent, name, new, mode)


def _make_in_place(sb: Superblock, parent: Inode, name: bytes, mode: int, make: Make) -> Backing | None:
    """Make an object as the filesystem itself gives it owner and mode; None if a whiteout is in the way."""
    assert parent.upper is not None
    try:
        make(parent.upper.dir_fd(), name, stat.S_IMODE(mode))
    except FileExistsError:
        if upper_kind(sb, parent, name) is not Kind.WHITEOUT:
            raise
        return None
    new = parent.upper.child(name)
    if _may_be_opaque(sb, parent, mode):
        _mark_needlessly(sb, new)
    return new


def _may_be_opaque(sb: Superblock, parent: Inode, mode: int) -> bool:
    """Whether to mark a new directory with nothing below opaque, which spares looking there (ovl_create_upper)."""
    return stat.S_ISDIR(mode) and bool(parent.lower) and not sb.params.allows_offline_changes


def _mark_needlessly(sb: Superblock, new: Backing) -> None:
    """An optimization only, which may fail, as in the kernel."""
    with suppress(OSError):
        new.setxattr(sb.marks.opaque, marks.OPAQUE_YES)


def _is_born_right(parent: os.stat_result, mode: int, caller: Caller) -> bool:
    """Whether the filesystem itself gives a new object its owner and mode; otherwise it must not be seen before it
    has them (the kernel creates with the caller's credentials, ovl_setup_cred_for_create)."""
    inherits_group = bool(parent.st_mode & stat.S_ISGID)
    mine = caller.uid == os.geteuid() and (inherits_group or caller.gid == os.getegid())
    return mine and not (mode & 0o7000)


def _make_aside(sb: Superblock, parent: Inode, name: bytes, mode: int, caller: Caller, make: Make) -> Backing:
    """Make an object in the work directory, finish it, and rename it into place (ovl_create_over_whiteout)."""
    upper = parent.upper
    assert upper is not None
    over_whiteout = upper_kind(sb, parent, name) is Kind.WHITEOUT
    _, workdir = sb.writable()
    with _stage(sb, upper) as new:
        dir_fd, temp_name = new.at()
        make(dir_fd, temp_name, stat.S_IMODE(mode))
        _own(sb, new, upper, mode, caller)
        flags = linux.RENAME_NOREPLACE
        if over_whiteout and stat.S_ISDIR(mode):
            workdir.mark(new, sb.marks.opaque, marks.OPAQUE_YES)
            sb.emit(events.Opaque(_join(parent, name)))
            flags = linux.RENAME_EXCHANGE
        elif over_whiteout:
            flags = 0
        elif _may_be_opaque(sb, parent, mode):
            _mark_needlessly(sb, new)
        workdir.install(new, upper, name, flags)
    return new


def _prepare(sb: Superblock, parent: Inode, name: bytes) -> Backing:
    """Check that a name is free; returns the upper directory it is to be made in."""
    sb.writable()
    check_new_name(sb, name)
    if find(sb, parent, name) is not None:
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), name)
    if parent.unlinked:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    copy_up(sb, parent)
    assert parent.upper is not None
    return parent.upper


@contextmanager
def _stage(sb: Superblock, upper: Backing) -> Iterator[Backing]:
    """Where to make an object aside: a temporary name, in a directory that hands on the default ACL that ``upper``
    would, if it has one. The filesystem itself then works out inherited ACLs (in place of ovl_set_upper_acl)."""
    _, workdir = sb.writable()
    acl = upper.find_xattr(_ACL_DEFAULT)
    with workdir.temp() as temp:
        if acl is None:
            yield temp
            return
        dir_fd, name = temp.at()
        os.mkdir(name, 0o700, dir_fd=dir_fd)
        temp.setxattr(_ACL_DEFAULT, acl)
        try:
            yield temp.child(b"new")
        finally:
            temp.drop()


def tmpfile(sb: Superblock, parent: Inode, mode: int, caller: Caller) -> Inode:
    """Make a regular file that has no name yet (ovl_tmpfile); it is held by its descriptor."""
    sb.writable()
    if parent.unlinked:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    copy_up(sb, parent)
    upper = parent.upper
    assert upper is not None
    if mode & caller.umask and upper.find_xattr(_ACL_DEFAULT) is None:
        mode &= ~caller.umask
    path = b"/proc/self/fd/%d" % upper.dir_fd()
    fd = os.open(path, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, stat.S_IMODE(mode))
    new = Backing.nameless(upper.layer, fd)
    try:
        _own(sb, new, upper, mode, caller)
    except BaseException:
        new.drop()
        raise
    inode = Inode(None, b"", stat.S_IFREG)
    inode.upper, inode.unlinked = new, True
    sb.table.add(inode, new.stat().st_ino)
    return inode


def _own(sb: Superblock, new: Backing, directory: Backing, mode: int, caller: Caller) -> None:
    """Give a new object the owner that the caller would have given it (inode_init_owner)."""
    st, parent_st = new.stat(), directory.stat()
    uid, gid, parent = caller.uid, caller.gid, Owner.of(parent_st)
    if sb.ownership is not None:
        uid, gid = sb.ownership.meant(uid, gid)
        parent = sb.ownership.of(directory, parent_st)
    special = mode & 0o7000
    if parent.mode & stat.S_ISGID:
        gid = parent.gid
        special |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
    owner = Owner(uid, gid, stat.S_IMODE(st.st_mode) & 0o777 | special)
    if sb.ownership is not None:
        sb.ownership.give(new, st, owner)
        return
    if (st.st_uid, st.st_gid) != (uid, gid):
        new.chown(uid, gid)
    if special and not stat.S_ISLNK(mode):  # chown clears them, and mkdir ignores them
        new.chmod(owner.mode)


def _new_inode(
    sb: Superblock, parent: Inode, name: bytes, upper: Backing, mode: int
) -> tuple[Inode, os.stat_result]:
    inode, st = Inode(parent, name, stat.S_IFMT(mode)), upper.stat()
    inode.upper = upper
    if inode.is_dir:
        inode.listing = Listing({})
    parent.gains(name, inode.type)
    sb.table.add(inode, st.st_ino)
    return inode, st


def _join(parent: Inode, name: bytes) -> bytes:
    path = parent.path()
    return path + b"/" + name if path else name


# -- link --------------------------------------------------------------------------------------------------


def link(sb: Superblock, inode: Inode, parent: Inode, name: bytes) -> None:
    """Give an inode, copied up already, one more name (ovl_link)."""
    upper = _prepare(sb, parent, name)
    _, workdir = sb.writable()
    source = inode.upper
    assert source is not None
    if inode.unlinked and inode.parent is not None:  # any other than what tmpfile() made
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    if inode.metacopy:
        set_redirect(sb, inode, same_directory=False)
    if inode.const_ino:  # the origin comes along (ovl_create_or_link)
        mark_impure(sb, parent)

    def make_link(target: Backing) -> None:
        dst_fd, dst_name = target.at()
        if inode.unlinked:
            os.link(b"/proc/self/fd/%d" % source.fd, dst_name, dst_dir_fd=dst_fd, follow_symlinks=True)
            return
        src_fd, src_name = source.at()
        os.link(src_name, dst_name, src_dir_fd=src_fd, dst_dir_fd=dst_fd, follow_symlinks=False)

    if upper_kind(sb, parent, name) is Kind.WHITEOUT:
        with workdir.temp() as temp:
            make_link(temp)
            workdir.install(temp, upper, name)
    else:
        make_link(upper.child(name))
    if inode.indexed:
        inode.nlink += 1
    parent.gains(name, inode.type)
    sb.table.remember_link(inode, source, source.stat().st_ino)
    sb.table.add_name(inode, parent, name, upper.child(name))


# -- remove ------------------------------------------------------------------------------------------------


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
    sb.emit(events.Whiteout(_join(parent, name)))


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
    sb.emit(events.Whiteout(_join(parent, name)))


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
