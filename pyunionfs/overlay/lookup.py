"""Finding an object: search the layers, apply the rules of ``merge.py``, make or find the inode.

Kernel: ovl_lookup() in fs/overlayfs/namei.c, ovl_get_inode() in inode.c.
"""

import errno
import os
import stat
from collections.abc import Sequence

from . import marks, merge
from .backing import Backing
from .inode import Inode, map_ino, shown_ino
from .listing import LAYER_SHIFT, LAYERS
from .search import Found, Search, is_hidden
from .super import Superblock

_SEARCH = Found(None)  # type: ignore[arg-type]
_S_IFMT = 0o170000


def check_name(name: bytes) -> None:
    """Refuse what is no single component; the kernel never sends it, a program in process might."""
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)


def check_new_name(sb: Superblock, name: bytes) -> None:
    """Refuse also what the next mount would take for a mark: EPERM."""
    check_name(name)
    if sb.params.dialects and marks.Dialect.is_mark(name):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), name)


def directories_of(inode: Inode) -> list[Backing]:
    """The directories that make up a merged directory, top to bottom."""
    return [inode.upper, *inode.lower] if inode.upper is not None else list(inode.lower)


def find(sb: Superblock, parent: Inode, name: bytes) -> Inode | None:
    """The inode of a name, or None. Takes no lookup count: the caller decides who holds it."""
    found = look(sb, parent, name)
    return found[0] if found is not None else None


def look(sb: Superblock, parent: Inode, name: bytes) -> tuple[Inode, os.stat_result | None] | None:
    """As :func:`find`, with the attributes of its topmost object where they were read on the way."""
    known = parent.children_of().get(name)
    if known is not None:
        if known.aliases is not None and known.upper is None:
            known.parent, known.name = parent, name  # of several names, the last used is the one to be copied up
        return known, None
    if parent is sb.prepared.directory and (ready := sb.prepared.found.pop(name, None)) is not None:
        inode, st = ready
        sb.table.add(inode, shown_ino(inode, st.st_ino))
        return ready
    found = _search(sb, parent, name)
    if found is None:
        return None
    inode = _get_inode(sb, parent, name, *found)
    top, _ = found
    return inode, top.st if inode.real is top.backing else None


def prepare(sb: Superblock, parent: Inode, name: bytes) -> tuple[Inode, os.stat_result] | None:
    """Make the inode of a name, for :func:`look` to add to the table when somebody asks for it. None for what does
    not exist, and for what may have other names: by one of these it may be known, or become known."""
    found = _search(sb, parent, name)
    if found is None:
        return None
    top, search = found
    assert top.st is not None
    if not stat.S_ISDIR(top.st.st_mode) and (top.st.st_nlink > 1 or top.backing.layer is sb.upper):
        return None
    return _make_inode(sb, parent, name, top, search), top.st


def _search(
    sb: Superblock, parent: Inode, name: bytes
) -> tuple[Found, tuple[Search, merge.Resolution] | None] | None:
    """The topmost object of a name; and all that the search has found, if it may consist of several."""
    first = 0
    if parent.listing is not None:
        in_listing = parent.listing.names.get(name)
        if in_listing is None and len(name) <= sb.name_max:
            return None
        first = (in_listing or 0) >> LAYER_SHIFT & LAYERS
    check_name(name)
    if sb.params.dialects and marks.Dialect.is_mark(name):
        return None
    if len(name) > sb.name_max:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)
    if parent.unlinked:
        return None
    directories = directories_of(parent)
    if not parent.xattr_whiteouts and (top := _topmost(sb, directories, name, first)) is not _SEARCH:
        return None if top is None else (top, None)
    search = Search(sb, directories, name, parent.xattr_whiteouts, first=first)
    resolution = merge.resolve(search.findings())
    return (search.found[resolution.providers[0]], (search, resolution)) if resolution.exists else None


def _topmost(sb: Superblock, directories: Sequence[Backing], name: bytes, first: int) -> Found | None:
    """Rules 2 and 6 of ``merge.py`` alone, which most names meet: the topmost object, if no marks matter, nor what
    lies below it. None if no layer has the name, ``_SEARCH`` for what has to be searched for.
    """
    for directory in directories:
        if directory.layer.index < first:
            continue
        backing = Backing(directory.layer, directory, name)
        try:
            st = backing.stat()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
                raise
            if is_hidden(sb, directory, name):
                return None
            continue
        kind = st.st_mode & _S_IFMT
        if kind == stat.S_IFREG or directory.layer is sb.upper:
            if kind == stat.S_IFDIR or kind == stat.S_IFCHR:
                return _SEARCH
            xattrs = backing.listxattr()
            return _SEARCH if sb.marks.metacopy in xattrs else Found(backing, st, xattrs)
        return Found(backing, st) if kind == stat.S_IFLNK else _SEARCH
    return None


def lookup(sb: Superblock, parent: Inode, name: bytes) -> tuple[Inode, os.stat_result | None]:
    """As :func:`look`; FileNotFoundError instead of None."""
    found = look(sb, parent, name)
    if found is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return found


def _get_inode(
    sb: Superblock, parent: Inode, name: bytes, top: Found, search: tuple[Search, merge.Resolution] | None
) -> Inode:
    first, st = top.backing, top.st
    assert st is not None
    is_upper = first.layer is sb.upper
    is_dir = stat.S_ISDIR(st.st_mode)
    # Names of one upper object are one inode, also when but one of them is left. So are those of a lower object,
    # unless a copy-up of one name could part it from the others (ovl_hash_bylower: "lower hardlink is or will be
    # broken on copy up").
    shared = not is_dir and st.st_nlink > 1 and (is_upper or sb.upper is None or sb.index is not None)
    if shared or (is_upper and not is_dir):
        known = sb.table.hard_link(first, st.st_ino)
        if known is not None:
            sb.table.add_name(known, parent, name, first)
            return known
    inode = _make_inode(sb, parent, name, top, search)
    if shared and sb.index is not None:
        known = _from_index(sb, inode, st)
        if known is not None:
            sb.table.remember_link(known, first, st.st_ino)
            sb.table.add_name(known, parent, name, first)
            return known
    sb.table.add(inode, inode.const_ino or map_ino(first, st.st_ino))
    if shared:
        sb.table.remember_link(inode, first, st.st_ino)
    if inode.indexed:
        sb.table.remember_link(inode, inode.real, inode.real.stat().st_ino)
    return inode


def _make_inode(
    sb: Superblock, parent: Inode, name: bytes, top: Found, search: tuple[Search, merge.Resolution] | None
) -> Inode:
    """``search`` is None for what consists of one object, and is no directory."""
    assert top.st is not None
    inode = Inode(parent, name, stat.S_IFMT(top.st.st_mode))
    if search is not None:
        fill(sb, inode, *search)
    elif top.backing.layer is sb.upper:
        _tie(sb, inode, (top,))
    else:  # as _tie does, in fewer steps: most of what is looked up
        inode.lower = (top.backing,)
        inode.const_ino = _const_ino(sb, top.backing, top.st)
    return inode


def fill(sb: Superblock, inode: Inode, search: Search, resolution: merge.Resolution) -> None:
    """Tie an inode to the objects that a search has found."""
    _tie(sb, inode, [search.found[index] for index in resolution.providers])
    inode.xattr_whiteouts = search.marked_x
    inode.metacopy, inode.data_path = False, b""
    if resolution.rules[resolution.providers[0]] is merge.Rule.METACOPY:
        _set_metacopy(sb, inode, search, resolution)


def _tie(sb: Superblock, inode: Inode, providers: Sequence[Found]) -> None:
    first, st, xattrs = providers[0].backing, providers[0].st, providers[0].xattrs
    assert st is not None
    is_upper = first.layer is sb.upper
    lower = providers[1 if is_upper else 0 :]
    inode.upper = first if is_upper else None
    inode.lower = tuple(found.backing for found in lower)
    inode.redirect = b""
    if is_upper and sb.marks.redirect in xattrs:
        inode.redirect = first.find_xattr(sb.marks.redirect) or b""
    if inode.is_dir:
        inode.impure = is_upper and sb.marks.impure in xattrs
        st_lower = lower[0].st if lower else None
        inode.const_ino = map_ino(lower[0].backing, st_lower.st_ino) if st_lower is not None else 0
    elif not is_upper:
        inode.const_ino = _const_ino(sb, first, st)
    elif sb.marks.origin in xattrs:
        inode.const_ino = _origin_ino(sb, first)


def _const_ino(sb: Superblock, lower: Backing, st: os.stat_result) -> int:
    """The number of a lower object, unless a copy-up could part it from its other names."""
    kept = st.st_nlink == 1 or sb.upper is None or sb.index is not None
    return map_ino(lower, st.st_ino) if kept else 0


def _set_metacopy(sb: Superblock, inode: Inode, search: Search, resolution: merge.Resolution) -> None:
    """Note where the data is, or how it is to be found when it is needed (ovl_maybe_lookup_lowerdata)."""
    inode.metacopy = True
    if not resolution.lacks_data:
        return
    if inode.lower and sb.data and search.redirect.startswith(b"/"):
        inode.data_path = search.path
        return
    raise OSError(errno.EIO, "a metacopy without data below", inode.real.path())


def _from_index(sb: Superblock, inode: Inode, st: os.stat_result) -> Inode | None:
    """Have the index say what a hard-linked object is in the union (ovl_lookup_index).

    Returns the inode that is known already by the index entry, if any.
    """
    assert sb.index is not None
    found = sb.index.find(inode)
    if found is None:
        return None
    entry, entry_st, lower_links = found
    if inode.upper is not None and entry_st.st_ino != st.st_ino:
        return None  # copied up while there was no index
    known = sb.table.hard_link(entry, entry_st.st_ino)
    if known is not None:
        return known
    xattrs = entry.listxattr()
    inode.upper, inode.indexed = entry, True
    inode.redirect = (entry.find_xattr(sb.marks.redirect) or b"") if sb.marks.redirect in xattrs else b""
    inode.metacopy = sb.marks.metacopy in xattrs
    if not inode.metacopy:
        inode.lower, inode.data_path = (), b""
    nlink = marks.decode_nlink(entry.find_xattr(sb.marks.nlink), upper=entry_st.st_nlink, lower=lower_links)
    inode.nlink = nlink if nlink is not None else max(entry_st.st_nlink - 1, 1)
    inode.lower_links = lower_links
    return None


def _origin_ino(sb: Superblock, upper: Backing) -> int:
    """The st_ino of the lower object that an upper one was copied from, or 0 (ovl_check_origin)."""
    value = upper.find_xattr(sb.marks.origin)
    origin = marks.Origin.decode(value) if value else None
    if origin is None:
        return 0
    for layer in sb.lower:
        st = layer.find_origin(origin)
        if st is not None and (st.st_nlink == 1 or sb.index is not None):
            return map_ino(layer.root, st.st_ino)
    return 0
