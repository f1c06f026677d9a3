"""Finding an object: search the layers, apply the rules of ``merge.py``, make or find the inode.

Kernel: ovl_lookup() in fs/overlayfs/namei.c, ovl_get_inode() in inode.c. Only the layers that have the
parent directory are searched, and none below the layer that decides. A redirect changes the path that is
searched for in the layers below: a relative one the last name, an absolute one the whole path, from the
roots of the layers.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import marks, merge
from .inode import Inode, map_ino
from .layer import Backing
from .listing import LAYER_SHIFT, LAYERS
from .merge import Kind
from .super import Superblock


@dataclass(slots=True)
class Found:
    """What one layer has: nothing if ``st`` is None."""

    backing: Backing
    st: os.stat_result | None = None
    xattrs: Sequence[str] = ()


class Search:
    """Look for one name in the directories of a merged directory, and keep what was found."""

    def __init__(
        self, sb: Superblock, directories: Sequence[Backing], name: bytes, xattr_whiteouts: bool, *, first: int = 0
    ) -> None:
        self._sb = sb
        self._first = first  # index of the topmost layer that may have the name
        self._namespace = sb.marks
        self._directories = directories
        self._path = [name]
        self._xattr_whiteouts = xattr_whiteouts
        self._restart = False  # at the roots of the layers below: an absolute redirect was found
        self._in_directory = self._in_metacopy = False  # what was found above
        self.found: list[Found] = []
        self.marked_x = False  # a directory marked opaque=x was found
        self.redirect = b""  # the last one that was found; all later findings are by it

    @property
    def path(self) -> bytes:
        """What the layers below are searched for, from their roots, after an absolute redirect."""
        return b"/" + b"/".join(self._path)

    def findings(self) -> Iterator[Kind]:
        """What each layer has, from the first on that may have it, probed only when it is asked for."""
        queue = deque(directory for directory in self._directories if directory.layer.index >= self._first)
        while queue:
            directory = queue.popleft()
            kind = self._look_in(directory, is_last=not queue)
            if kind is not Kind.ABSENT and directory.layer is not self._sb.upper:
                self._refuse_untrusted(kind)
            yield kind
            self._in_directory |= kind is Kind.DIRECTORY
            self._in_metacopy |= kind is Kind.METACOPY
            if self._restart:
                self._restart = False
                queue = deque(layer.root for layer in self._sb.lower if layer.index > directory.layer.index)

    def _look_in(self, directory: Backing, *, is_last: bool) -> Kind:
        """Walk the path in one layer (ovl_lookup_layer, ovl_lookup_single)."""
        names = self._path
        prefix: list[bytes] = []  # of the path for the layers below
        ended = False  # by an opaque directory on the way
        for position, name in enumerate(names):
            backing = directory.child(name)
            st = _stat(backing)
            if st is None:
                self.found.append(Found(backing))
                return Kind.WHITEOUT if ended or _is_hidden(self._sb, directory, name) else Kind.ABSENT
            if _is_whiteout(self._sb, backing, st, self._xattr_whiteouts):
                self.found.append(Found(backing, st))
                return Kind.WHITEOUT
            is_final = position == len(names) - 1
            if not stat.S_ISDIR(st.st_mode):
                if is_final:
                    return self._file(backing, st, prefix, is_last=is_last)
                self.found.append(Found(backing))
                return Kind.WHITEOUT
            xattrs, opaque, redirect = self._directory(backing, st, is_final=is_final, is_last=is_last)
            ended = (ended or opaque) and not redirect.startswith(b"/")
            if is_final:
                self.found.append(Found(backing, st, xattrs))
            prefix = self._redirect(redirect, name, prefix, names[position + 1 :])
            directory = backing
        return Kind.OPAQUE if ended else Kind.DIRECTORY

    def _is_bottom(self, backing: Backing, *, is_last: bool) -> bool:
        """Whether nothing below is going to be looked at, so that marks say nothing (ovl_lookup_data.last)."""
        return backing.layer is self._sb.lower[-1] if self._sb.params.follows_redirects else is_last

    def _directory(
        self, backing: Backing, st: os.stat_result, *, is_final: bool, is_last: bool
    ) -> tuple[Sequence[str], bool, bytes]:
        """The xattrs of a directory, whether it is opaque, and its redirect."""
        if (st.st_dev, st.st_ino) in self._sb.traps:  # our upper directory, seen from below
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), backing.path())  # ovl_lookup_trap_inode
        xattrs = backing.listxattr()
        if self._sb.params.dialects and is_opaque_to_others(backing, xattrs):
            return xattrs, not self._is_bottom(backing, is_last=is_last), b""
        if self._namespace.opaque in xattrs:
            value = self._opaque_mark(backing, st)
            if value == marks.OPAQUE_XATTR_WHITEOUTS and is_final:
                self.marked_x = True  # matters even at the bottom
            if value == marks.OPAQUE_YES and not self._is_bottom(backing, is_last=is_last):
                return xattrs, True, b""
        if self._namespace.redirect in xattrs and not self._is_bottom(backing, is_last=is_last):
            return xattrs, False, self._redirect_mark(backing)
        return xattrs, False, b""

    def _file(self, backing: Backing, st: os.stat_result, prefix: list[bytes], *, is_last: bool) -> Kind:
        """Anything but a directory or whiteout: a metacopy?"""
        is_regular = stat.S_ISREG(st.st_mode)
        xattrs = backing.listxattr() if is_regular or backing.layer is self._sb.upper else ()
        self.found.append(Found(backing, st, xattrs))
        if not is_regular:
            return Kind.OTHER
        if self._namespace.metacopy not in xattrs or self._in_directory:
            return Kind.FILE
        value = backing.find_xattr(self._namespace.metacopy)
        if value is None:
            return Kind.FILE
        marks.Metacopy.check(value)
        at_bottom = self._is_bottom(backing, is_last=is_last) and not self._sb.data
        if self._namespace.redirect in xattrs and not at_bottom:
            self._redirect(self._redirect_mark(backing), self._path[-1], prefix, [])
        return Kind.METACOPY

    def _redirect_mark(self, backing: Backing) -> bytes:
        value = backing.find_xattr(self._namespace.redirect)
        return marks.check_redirect(value) if value is not None else b""

    def _redirect(self, redirect: bytes, name: bytes, prefix: list[bytes], rest: list[bytes]) -> list[bytes]:
        """Note where the layers below are to be searched (ovl_check_redirect); returns the path up to here."""
        if redirect.startswith(b"/"):
            self._restart = True
            up_to = redirect[1:].split(b"/")
        else:
            up_to = [*prefix, redirect or name]
        if redirect:
            self.redirect = redirect
            self._path = up_to + rest
        return up_to

    def _opaque_mark(self, backing: Backing, st: os.stat_result) -> bytes | None:
        """The mark of a directory, also of one of ours that its owner made unreadable: or what it hides would
        come back."""
        unreadable = not st.st_mode & stat.S_IRUSR and st.st_uid == os.geteuid() != 0
        if not (unreadable and backing.layer.writable):
            return backing.find_xattr(self._namespace.opaque)
        mode = stat.S_IMODE(st.st_mode)
        backing.chmod(mode | stat.S_IRUSR)
        try:
            return backing.find_xattr(self._namespace.opaque)
        finally:
            backing.chmod(mode)

    def _refuse_untrusted(self, kind: Kind) -> None:
        """EPERM for what a mark led to, where such marks are not to be followed: somebody else may have set it."""
        is_file = kind in (Kind.FILE, Kind.METACOPY)
        is_directory = kind in (Kind.DIRECTORY, Kind.OPAQUE)
        if (
            kind is Kind.WHITEOUT
            or (self._in_directory and not is_directory)
            or (self._in_metacopy and not is_file)
        ):
            return
        by_metacopy = self._in_metacopy or kind is Kind.METACOPY
        if by_metacopy and not self._sb.params.metacopy:
            raise OSError(
                errno.EPERM, "a metacopy, and the mount option metacopy is off", self.found[-1].backing.path()
            )
        if self.redirect and not self._sb.params.follows_redirects:
            raise OSError(errno.EPERM, "a redirect, and redirect_dir=nofollow", self.found[-1].backing.path())


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
        if top is None:
            return None
        inode = _get_inode(sb, parent, name, top, None)
    else:
        search = Search(sb, directories, name, parent.xattr_whiteouts, first=first)
        resolution = merge.resolve(search.findings())
        if not resolution.exists:
            return None
        top = search.found[resolution.providers[0]]
        inode = _get_inode(sb, parent, name, top, (search, resolution))
    return inode, top.st if inode.real is top.backing else None


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
            if _is_hidden(sb, directory, name):
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


def peek(sb: Superblock, directory: Backing, name: bytes, xattr_whiteouts: bool) -> Kind:
    """What one directory of one layer itself has under a name: ABSENT, WHITEOUT or OTHER."""
    backing = directory.child(name)
    st = _stat(backing)
    if st is None:
        return Kind.WHITEOUT if _is_hidden(sb, directory, name) else Kind.ABSENT
    return Kind.WHITEOUT if _is_whiteout(sb, backing, st, xattr_whiteouts) else Kind.OTHER


def _is_hidden(sb: Superblock, directory: Backing, name: bytes) -> bool:
    """Whether a layer that lacks a name hides it from those above by a name of its own (marks.Dialect)."""
    return sb.params.dialects and _stat(directory.child(marks.Dialect.whiteout(name))) is not None


def is_opaque_to_others(directory: Backing, xattrs: Sequence[str]) -> bool:
    """Whether a directory is opaque by a mark of others (marks.Dialect)."""
    if any(
        directory.find_xattr(name) == marks.OPAQUE_YES for name in marks.Dialect.OPAQUE_XATTRS if name in xattrs
    ):
        return True
    return any(_stat(directory.child(name)) is not None for name in marks.Dialect.OPAQUE_NAMES)


def _stat(backing: Backing) -> os.stat_result | None:
    try:
        return backing.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
            raise
        return None


def _is_whiteout(sb: Superblock, backing: Backing, st: os.stat_result, xattr_whiteouts: bool) -> bool:
    """Whether an object hides its name; by an xattr only in a directory that says so (``opaque=x``)."""
    if marks.is_whiteout_device(st.st_mode, st.st_rdev):
        return True
    may_be = xattr_whiteouts and marks.may_be_xattr_whiteout(st.st_mode, st.st_size)
    return may_be and backing.find_xattr(sb.marks.whiteout) is not None


def _get_inode(
    sb: Superblock, parent: Inode, name: bytes, top: Found, search: tuple[Search, merge.Resolution] | None
) -> Inode:
    """``search`` is None for what consists of one object, and is no directory."""
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
    inode = Inode(parent, name, stat.S_IFMT(st.st_mode))
    if search is not None:
        fill(sb, inode, *search)
    else:
        _tie(sb, inode, (top,))
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
        kept = st.st_nlink == 1 or sb.upper is None or sb.index is not None
        inode.const_ino = map_ino(first, st.st_ino) if kept else 0
    elif sb.marks.origin in xattrs:
        inode.const_ino = _origin_ino(sb, first)


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
