"""Searching the layers for a name: what each of them has, as ``merge.py`` wants to know it.

Kernel: ovl_lookup_layer(), ovl_lookup_single() in fs/overlayfs/namei.c. Only the layers that have the parent
directory are searched, and none below the layer that decides. A redirect changes the path that is searched for in
the layers below: a relative one the last name, an absolute one the whole path, from the roots of the layers.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from . import marks
from .backing import Backing
from .inode import Inode
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
                return Kind.WHITEOUT if ended or is_hidden(self._sb, directory, name) else Kind.ABSENT
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


# -- what one directory of one layer has --------------------------------------------------------------------


def peek(sb: Superblock, directory: Backing, name: bytes, xattr_whiteouts: bool) -> Kind:
    """What one directory of one layer itself says of a name: ABSENT, WHITEOUT or OTHER."""
    kind = _kind_at(sb, directory.child(name), xattr_whiteouts)
    return Kind.WHITEOUT if kind is Kind.ABSENT and is_hidden(sb, directory, name) else kind


def upper_kind(sb: Superblock, parent: Inode, name: bytes) -> Kind:
    """What stands in the upper directory under a name: ABSENT, WHITEOUT or OTHER. A mark of others has a name of
    its own (:func:`is_hidden`), and stands in nobody's way."""
    return Kind.ABSENT if parent.upper is None else _kind_at(sb, parent.upper.child(name), parent.xattr_whiteouts)


def _kind_at(sb: Superblock, backing: Backing, xattr_whiteouts: bool) -> Kind:
    st = _stat(backing)
    if st is None:
        return Kind.ABSENT
    return Kind.WHITEOUT if _is_whiteout(sb, backing, st, xattr_whiteouts) else Kind.OTHER


def lower_positive(sb: Superblock, parent: Inode, name: bytes) -> bool:
    """Whether the name would show through from below without its upper object (ovl_lower_positive)."""
    for directory in parent.lower:
        kind = peek(sb, directory, name, parent.xattr_whiteouts)
        if kind is not Kind.ABSENT:
            return kind is not Kind.WHITEOUT
    return False


def is_hidden(sb: Superblock, directory: Backing, name: bytes) -> bool:
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
