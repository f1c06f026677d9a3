"""Merged listings, and whether a directory is empty (fs/overlayfs/readdir.c).

A listing is made once, and then kept (:mod:`.listing`).
"""

import stat
from collections.abc import Iterator

from ..vfs import DirEntry
from . import marks, merge
from .backing import Backing
from .inode import Inode, map_ino
from .listing import INO_SHIFT, LAYER_SHIFT, Listing
from .lookup import directories_of
from .super import Superblock

_PROBES = 4  # looks into layers in vain, before it is worth listing the directory


def listing(sb: Superblock, inode: Inode) -> Listing:
    """The listing of a directory that is held; ENOTDIR for anything else."""
    if inode.listing is None:
        inode.children_of()
        inode.listing = Listing({} if inode.unlinked else _read(sb, inode))
    return inode.listing


def _read(sb: Superblock, inode: Inode) -> dict[bytes, int]:
    if inode.upper is not None and not inode.lower and not inode.xattr_whiteouts:
        return {name: kind for name, kind, hidden in entries(sb, inode, inode.upper) if not hidden}
    return merge.listing(_with_layer(sb, inode, directory) for directory in directories_of(inode))


def _with_layer(sb: Superblock, inode: Inode, directory: Backing) -> Iterator[tuple[bytes, int, bool]]:
    layer = directory.layer.index << LAYER_SHIFT
    change = map_ino(directory, 0) << INO_SHIFT
    for name, kind, hidden in entries(sb, inode, directory):
        yield name, (kind ^ change if kind >> INO_SHIFT else kind) | layer, hidden


def readdir(sb: Superblock, inode: Inode, start: int = 0, count: int | None = None) -> list[DirEntry]:
    """The merged listing after a position, without ``.`` and ``..``."""
    return listing(sb, inode).after(start, count)


def is_empty(sb: Superblock, inode: Inode) -> bool:
    """Whether nothing but whiteouts is left in a directory (ovl_check_empty_dir)."""
    return not listing(sb, inode).names


def note_probes(sb: Superblock, inode: Inode, in_vain: int) -> None:
    """Layers were asked in vain for a name: after some, what is there is listed, and then only the layer is asked
    that has a name.
    """
    inode.probes += in_vain
    if inode.probes >= _PROBES:
        listing(sb, inode)


def entries(sb: Superblock, inode: Inode, directory: Backing) -> Iterator[tuple[bytes, int, bool]]:
    """What one layer has in a directory: ``(name, type, is_whiteout)``. Above the type's bits stands the number of
    the layer's object, where the union shows that (as ovl_cache_update: neither of a directory, nor of a copy).
    """
    shown = not inode.impure if directory.layer is sb.upper else sb.index is None
    for entry in directory.scan():
        if sb.params.dialects and marks.Dialect.is_mark(entry.name):
            if name := marks.Dialect.hidden_by(entry.name):
                yield name, 0, True
        elif entry.is_dir(follow_symlinks=False):
            yield entry.name, stat.S_IFDIR, False
        elif entry.is_symlink():
            yield entry.name, stat.S_IFLNK | (entry.inode() << INO_SHIFT if shown else 0), False
        elif entry.is_file(follow_symlinks=False):
            hidden = inode.xattr_whiteouts and _is_xattr_whiteout(sb, directory.child(entry.name))
            yield entry.name, stat.S_IFREG | (entry.inode() << INO_SHIFT if shown else 0), hidden
        else:
            st = directory.child(entry.name).stat()
            yield entry.name, stat.S_IFMT(st.st_mode), marks.is_whiteout_device(st.st_mode, st.st_rdev)


def _is_xattr_whiteout(sb: Superblock, backing: Backing) -> bool:
    st = backing.stat()
    return marks.may_be_xattr_whiteout(st.st_mode, st.st_size) and backing.find_xattr(sb.marks.whiteout) is not None
