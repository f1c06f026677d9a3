"""Giving a directory one name more: create, tmpfile, link (fs/overlayfs/dir.c).

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
from .backing import Backing
from .copy_up import copy_up, mark_impure
from .inode import Inode
from .listing import Listing
from .lookup import check_new_name, find
from .merge import Kind
from .ownership import Owner
from .redirect import set_redirect
from .search import is_hidden, upper_kind
from .super import Superblock

_ACL_DEFAULT = "system.posix_acl_default"
Make = Callable[[int, bytes, int], None]
"""Makes the bare object at ``(dir_fd, name)`` with the permission bits that are the third argument."""


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
    hides = stat.S_ISDIR(mode) and is_hidden(sb, upper, name)
    if sb.ownership is None and not hides and _is_born_right(upper.stat(), mode, caller):
        new = _make_in_place(sb, parent, name, mode, make)
    if new is None:
        new = _make_aside(sb, parent, name, mode, caller, make, hides=hides)
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


def _make_aside(
    sb: Superblock, parent: Inode, name: bytes, mode: int, caller: Caller, make: Make, *, hides: bool
) -> Backing:
    """Make an object in the work directory, finish it, and rename it into place (ovl_create_over_whiteout).

    ``hides`` says of a directory that something below was hidden by another means than a whiteout in its place.
    """
    upper = parent.upper
    assert upper is not None
    over_whiteout = upper_kind(sb, parent, name) is Kind.WHITEOUT
    _, workdir = sb.writable()
    with _stage(sb, upper) as new:
        dir_fd, temp_name = new.at()
        make(dir_fd, temp_name, stat.S_IMODE(mode))
        _own(sb, new, upper, mode, caller)
        flags = linux.RENAME_NOREPLACE
        if stat.S_ISDIR(mode) and (over_whiteout or hides):
            workdir.mark(new, sb.marks.opaque, marks.OPAQUE_YES)
            sb.emit(events.Opaque(parent.path_of(name)))
            flags = linux.RENAME_EXCHANGE if over_whiteout else flags
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
