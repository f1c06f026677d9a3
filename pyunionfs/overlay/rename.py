"""Rename and exchange (ovl_rename in fs/overlayfs/dir.c), under the namespace lock.

What is renamed has been copied up before. A directory that is merged or lower keeps what is below it by a
redirect; without ``redirect_dir=on`` it cannot be moved: EXDEV, on which mv(1) copies.
"""

import errno
import os

from .. import linux
from . import marks
from .copy_up import copy_up, link_up, mark_impure
from .held import note
from .inode import Inode
from .lookup import check_new_name, find, lookup
from .merge import Kind
from .readdir import is_empty
from .redirect import set_redirect
from .remove import clear_upper_dir, losing_name
from .search import lower_positive, upper_kind
from .super import Superblock
from .workdir import clear_away

EXCHANGE = linux.RENAME_EXCHANGE


def check(
    sb: Superblock, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes, flags: int
) -> tuple[Inode, Inode | None]:
    """What is renamed and what is there already. Raises what can be told before anything is copied up."""
    sb.writable()
    if flags & ~(linux.RENAME_NOREPLACE | linux.RENAME_EXCHANGE):
        raise _error(errno.EINVAL)
    if flags == linux.RENAME_NOREPLACE | linux.RENAME_EXCHANGE:
        raise _error(errno.EINVAL)
    check_new_name(sb, new_name)
    old, _ = lookup(sb, parent, name)
    new = find(sb, new_parent, new_name)
    if flags & linux.RENAME_NOREPLACE and new is not None:
        raise _error(errno.EEXIST)
    if _is_inside(new_parent, old):
        raise _error(errno.EINVAL)
    if flags & linux.RENAME_EXCHANGE:
        if new is None:
            raise _error(errno.ENOENT)
        if _is_inside(parent, new):
            raise _error(errno.EINVAL)
        if not _can_move(sb, new):
            raise _error(errno.EXDEV)
    elif new is not None and new is not old and old.is_dir != new.is_dir:
        raise _error(errno.ENOTDIR if old.is_dir else errno.EISDIR)
    if not _can_move(sb, old):
        raise _error(errno.EXDEV)
    if new is not None and not flags & linux.RENAME_EXCHANGE and new.is_dir and not is_empty(sb, new):
        raise _error(errno.ENOTEMPTY)
    return old, new


def _can_move(sb: Superblock, inode: Inode) -> bool:
    return not inode.is_dir or not inode.lower or sb.params.redirect_dir == "on"


def rename(
    sb: Superblock, source: tuple[Inode, bytes, Inode], target: tuple[Inode, bytes, Inode | None], flags: int
) -> None:
    """Rename what :func:`check` has found to be at both places; what moves is in the upper layer already."""
    (parent, name, old), (new_parent, new_name, new) = source, target
    if old is new:
        return  # two names of one inode: rename(2) does nothing
    copy_up(sb, parent)
    copy_up(sb, new_parent)
    for at, called, inode in (source, target):
        if inode is not None and inode.indexed:
            link_up(sb, inode, at, called)
    if flags & linux.RENAME_EXCHANGE:
        assert new is not None
        _exchange(sb, source, (new_parent, new_name, new))
        return
    _prepare_move(sb, old, parent, new_parent)
    if new is not None and new.is_dir and new.upper is not None and new.is_merge:
        clear_upper_dir(sb, new)
    elif new is not None and new.is_dir and new.upper is not None:
        _clear_stale_whiteouts(sb, new)
    note(sb, old, also_at=(new_parent, new_name))
    if new is None:
        _move(sb, parent, name, old, new_parent, new_name)
    else:
        with losing_name(sb, new, new_parent, new_name):
            _move(sb, parent, name, old, new_parent, new_name)
    _moved(sb, old, parent, name, new_parent, new_name)


def _move(sb: Superblock, parent: Inode, name: bytes, old: Inode, new_parent: Inode, new_name: bytes) -> None:
    """The one system call that does it, by what each place has to show afterwards."""
    assert parent.upper is not None and new_parent.upper is not None
    needs_whiteout = lower_positive(sb, parent, name)
    source, target = (parent.upper.dir_fd(), name), (new_parent.upper.dir_fd(), new_name)
    if (needs_whiteout or old.is_dir) and upper_kind(sb, new_parent, new_name) is Kind.WHITEOUT:
        linux.renameat2(*source, *target, linux.RENAME_EXCHANGE)  # the whiteout changes places with it
        if not needs_whiteout:
            clear_away(parent.upper, name)
    elif needs_whiteout:
        linux.renameat2(*source, *target, linux.RENAME_WHITEOUT)
    else:
        os.rename(name, new_name, src_dir_fd=source[0], dst_dir_fd=target[0])


def _exchange(sb: Superblock, one: tuple[Inode, bytes, Inode], two: tuple[Inode, bytes, Inode]) -> None:
    (parent, name, old), (new_parent, new_name, new) = one, two
    _prepare_move(sb, old, parent, new_parent)
    _prepare_move(sb, new, new_parent, parent)
    assert parent.upper is not None and new_parent.upper is not None
    note(sb, old, also_at=(new_parent, new_name))
    note(sb, new, also_at=(parent, name))
    linux.renameat2(parent.upper.dir_fd(), name, new_parent.upper.dir_fd(), new_name, linux.RENAME_EXCHANGE)
    _moved(sb, old, parent, name, new_parent, new_name)
    _moved(sb, new, new_parent, new_name, parent, name)
    for directory, called, inode in ((parent, name, new), (new_parent, new_name, old)):
        directory.children_of()[called] = inode
        directory.gains(called, inode.type)


def _prepare_move(sb: Superblock, moved: Inode, parent: Inode, new_parent: Inode) -> None:
    """Have an upper object belong, in its new place, to what it belongs to now: by a redirect; or, for a pure
    upper directory, by not merging with what lies below the new place (ovl_set_opaque_xerr)."""
    if moved.const_ino and parent is not new_parent:
        mark_impure(sb, new_parent)
    if moved.needs_redirect:
        set_redirect(sb, moved, same_directory=parent is new_parent)
        return
    if not (moved.is_dir and new_parent.lower):
        return
    assert moved.upper is not None
    if moved.upper.find_xattr(sb.marks.opaque) == marks.OPAQUE_YES:
        return
    try:
        sb.writable()[1].mark(moved.upper, sb.marks.opaque, marks.OPAQUE_YES)
    except OSError as error:
        raise _error(errno.EXDEV if error.errno == errno.EOPNOTSUPP else error.errno or errno.EIO) from None


def _clear_stale_whiteouts(sb: Superblock, directory: Inode) -> None:
    """Whiteouts in a directory with nothing below serve nothing, but would make rename(2) fail."""
    assert directory.upper is not None
    for entry in directory.upper.scan():
        os.unlink(entry.name, dir_fd=directory.upper.dir_fd())


def _moved(sb: Superblock, inode: Inode, parent: Inode, name: bytes, new_parent: Inode, new_name: bytes) -> None:
    """Bring an inode's names up to date."""
    if parent.children_of().get(name) is inode:
        del parent.children_of()[name]
    new_parent.children_of()[new_name] = inode
    parent.loses(name)
    new_parent.gains(new_name, inode.type)
    upper = inode.upper
    assert upper is not None
    if inode.aliases is not None:
        inode.aliases.discard((parent, name))
        inode.aliases.add((new_parent, new_name))
    if (inode.parent, inode.name) == (parent, name):
        inode.parent, inode.name = new_parent, new_name
    if (upper.parent, upper.name) == (parent.upper, name):
        upper.parent, upper.name = new_parent.upper, new_name
    note(sb, inode)


def _is_inside(directory: Inode, ancestor: Inode) -> bool:
    node: Inode | None = directory
    while node is not None:
        if node is ancestor:
            return True
        node = node.parent
    return False


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
