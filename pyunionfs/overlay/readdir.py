"""Merged listings, and whether a directory is empty (fs/overlayfs/readdir.c)."""

import stat
from collections.abc import Iterator

from ..vfs import DirEntry
from . import marks, merge
from .inode import Inode
from .layer import Backing
from .lookup import directories_of
from .super import Superblock


def readdir(sb: Superblock, inode: Inode) -> list[DirEntry]:
    """The listing of a merged directory, without ``.`` and ``..``, in a stable order."""
    inode.children_of()
    if inode.unlinked:
        return []
    if inode.upper is not None and not inode.lower and not inode.xattr_whiteouts:
        return [DirEntry(name, kind) for name, kind, hidden in entries(sb, inode, inode.upper) if not hidden]
    merged = merge.listing(entries(sb, inode, directory) for directory in directories_of(inode))
    return [DirEntry(name, kind) for name, kind in merged.items()]


def is_empty(sb: Superblock, inode: Inode) -> bool:
    """Whether nothing but whiteouts is left in a directory (ovl_check_empty_dir)."""
    return not readdir(sb, inode)


def entries(sb: Superblock, inode: Inode, directory: Backing) -> Iterator[tuple[bytes, int, bool]]:
    """What one layer has in a directory: ``(name, type, is_whiteout)``."""
    for entry in directory.scan():
        if entry.is_dir(follow_symlinks=False):
            yield entry.name, stat.S_IFDIR, False
        elif entry.is_symlink():
            yield entry.name, stat.S_IFLNK, False
        elif entry.is_file(follow_symlinks=False):
            hidden = inode.xattr_whiteouts and _is_xattr_whiteout(sb, directory.child(entry.name))
            yield entry.name, stat.S_IFREG, hidden
        else:
            st = directory.child(entry.name).stat()
            yield entry.name, stat.S_IFMT(st.st_mode), marks.is_whiteout_device(st.st_mode, st.st_rdev)


def _is_xattr_whiteout(sb: Superblock, backing: Backing) -> bool:
    st = backing.stat()
    return marks.may_be_xattr_whiteout(st.st_mode, st.st_size) and backing.find_xattr(sb.marks.whiteout) is not None
