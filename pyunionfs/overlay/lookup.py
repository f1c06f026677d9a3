"""Finding an object: probe the layers, apply the rules of ``merge.py``, make or find the inode.

Kernel: ovl_lookup() in fs/overlayfs/namei.c, ovl_get_inode() in inode.c. Only the layers that have the
parent directory are probed, and none below the layer that decides.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence

from . import marks, merge
from .inode import Inode, map_ino
from .layer import Backing
from .merge import Kind
from .super import Superblock


class Probe:
    """Look for one name in the directories of a merged directory, and keep what was found."""

    def __init__(self, sb: Superblock, directories: Sequence[Backing], name: bytes, xattr_whiteouts: bool) -> None:
        self._sb = sb
        self._namespace = sb.marks
        self._directories = directories
        self._name = name
        self._xattr_whiteouts = xattr_whiteouts
        self.found: list[tuple[Backing, os.stat_result | None]] = []
        self.marked_x = False  # a directory marked opaque=x was found

    def findings(self) -> Iterator[Kind]:
        """What each layer has, probed only when it is asked for."""
        last = len(self._directories) - 1
        for index, directory in enumerate(self._directories):
            backing = directory.child(self._name)
            try:
                st = backing.stat()
            except FileNotFoundError:
                self.found.append((backing, None))
                yield Kind.ABSENT
                continue
            self.found.append((backing, st))
            yield self._classify(backing, st, is_last=index == last)

    def _classify(self, backing: Backing, st: os.stat_result, *, is_last: bool) -> Kind:
        mode = st.st_mode
        if stat.S_ISDIR(mode):
            if (st.st_dev, st.st_ino) in self._sb.traps:  # our upper directory, seen from below
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), backing.path())  # ovl_lookup_trap_inode
            # Nothing lies below the last one, so its opaqueness says nothing; xattr whiteouts matter even there.
            value = self._opaque_mark(backing, st)
            if value == marks.OPAQUE_XATTR_WHITEOUTS:
                self.marked_x = True
            if not is_last:
                self._refuse(backing, self._namespace.redirect)
            return Kind.OPAQUE if value == marks.OPAQUE_YES and not is_last else Kind.DIRECTORY
        if marks.is_whiteout_device(mode, st.st_rdev):
            return Kind.WHITEOUT
        if self._xattr_whiteouts and marks.may_be_xattr_whiteout(mode, st.st_size):
            return Kind.WHITEOUT if backing.find_xattr(self._namespace.whiteout) is not None else Kind.OTHER
        if marks.may_be_metacopy(st):
            self._refuse(backing, self._namespace.metacopy)
        return Kind.OTHER

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

    def _refuse(self, backing: Backing, mark: str) -> None:
        """EIO for a mark that says that more is below than we look at: better no answer than a wrong one."""
        if backing.find_xattr(mark) is not None:
            raise OSError(errno.EIO, f"marked {mark}, which is not supported yet", backing.path())


def check_name(name: bytes) -> None:
    """Refuse what is no single component; the kernel never sends it, a program in process might."""
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)


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
        return known, None
    check_name(name)
    if parent.unlinked:
        return None
    probe = Probe(sb, directories_of(parent), name, parent.xattr_whiteouts)
    resolution = merge.resolve(probe.findings())
    if not resolution.exists:
        return None
    inode = _get_inode(sb, parent, name, probe, resolution.providers)
    return inode, probe.found[resolution.providers[0]][1]


def lookup(sb: Superblock, parent: Inode, name: bytes) -> tuple[Inode, os.stat_result | None]:
    """As :func:`look`; FileNotFoundError instead of None."""
    found = look(sb, parent, name)
    if found is None:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return found


def _get_inode(sb: Superblock, parent: Inode, name: bytes, probe: Probe, providers: tuple[int, ...]) -> Inode:
    first, st = probe.found[providers[0]]
    assert st is not None
    is_upper = first.layer is sb.upper
    is_dir = stat.S_ISDIR(st.st_mode)
    # Names of one upper object are one inode, also when but one of them is left. So are those of a lower object,
    # unless a copy-up of one name could part it from the others (ovl_hash_bylower: "lower hardlink is or will be
    # broken on copy up").
    shared = not is_dir and st.st_nlink > 1 and (is_upper or sb.upper is None)
    if shared or (is_upper and not is_dir):
        known = sb.table.hard_link(first, st.st_ino)
        if known is not None:
            sb.table.add_name(known, parent, name, first)
            return known
    inode = Inode(parent, name, stat.S_IFMT(st.st_mode))
    lower = providers[1:] if is_upper else providers
    inode.upper = first if is_upper else None
    inode.lower = tuple(probe.found[index][0] for index in lower)
    inode.xattr_whiteouts = probe.marked_x
    if is_dir:
        inode.impure = is_upper and first.find_xattr(sb.marks.impure) == b"y"
        _, st_lower = probe.found[lower[0]] if lower else (None, None)
        inode.const_ino = map_ino(inode.lower[0], st_lower.st_ino) if st_lower is not None else 0
    elif not is_upper:
        inode.const_ino = map_ino(first, st.st_ino) if st.st_nlink == 1 or shared else 0
    elif parent.impure:
        inode.const_ino = _origin_ino(sb, first)
    sb.table.add(inode, inode.const_ino or map_ino(first, st.st_ino))
    if shared:
        sb.table.remember_link(inode, st.st_ino)
    return inode


def _origin_ino(sb: Superblock, upper: Backing) -> int:
    """The st_ino of the lower object that an upper one was copied from, or 0 (ovl_check_origin)."""
    value = upper.find_xattr(sb.marks.origin)
    origin = marks.Origin.decode(value) if value else None
    if origin is None:
        return 0
    for layer in sb.lower:
        st_ino = layer.find_origin(origin)
        if st_ino:
            return map_ino(layer.root, st_ino)
    return 0
