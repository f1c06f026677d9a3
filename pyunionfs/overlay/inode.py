"""Inodes of the union, the table of those that the kernel knows, and what number people see.

An :class:`Inode` ties an object of the merged view to its backing objects: ``upper``, absent until copy-up,
and ``lower``, top to bottom (several only for a merged directory). Kernel: struct ovl_inode,
fs/overlayfs/inode.c.
"""

import errno
import gc
import os
import stat
from collections.abc import Collection, Iterator

from .. import linux
from ..vfs import ROOT, Ino
from .backing import Backing
from .listing import Listing

_FSID_SHIFT = 56  # room for 255 filesystems above the numbers that local filesystems use
_MANY = 20_000  # inodes; fewer are not worth giving their memory back
_VIRTUAL = 1 << 63  # handles from here on are no st_ino of anything


class Inode:
    """One object of the merged view."""

    __slots__ = (
        "aliases",
        "children",
        "const_ino",
        "data_path",
        "impure",
        "indexed",
        "ino",
        "link_keys",
        "listing",
        "lookups",
        "lower",
        "lower_links",
        "metacopy",
        "name",
        "nlink",
        "opens",
        "parent",
        "probes",
        "read_ns",
        "redirect",
        "type",
        "unlinked",
        "upper",
        "xattr_whiteouts",
    )

    def __init__(self, parent: "Inode | None", name: bytes, kind: int) -> None:
        self.ino = Ino(0)
        self.type = kind  # S_IFMT bits
        self.parent = parent
        self.name = name
        self.upper: Backing | None = None
        self.lower: tuple[Backing, ...] = ()
        self.const_ino = 0  # st_ino that must not change by copy-up (OVL_CONST_INO); 0: that of the backing
        self.lookups = 0  # how often the kernel was told of it and did not yet forget
        self.opens = 0
        self.unlinked = False
        # A directory's children that are in the table; None for everything else.
        self.children: dict[bytes, Inode] | None = {} if stat.S_ISDIR(kind) else None
        self.listing: Listing | None = None  # of a directory, once all of its names are known
        self.probes = 0  # looks for names in its layers that found nothing
        self.aliases: set[tuple[Inode, bytes]] | None = None  # all known names, where there are several
        self.link_keys: tuple[tuple[int, int], ...] = ()  # of its objects, where they have several names
        self.indexed = False  # several names that are kept together by the index, see index.py
        self.nlink = (
            0  # of an indexed inode: how many names the union shows; of a directory, 0 before it is counted
        )
        self.read_ns = 0  # when it was last read, where the layer may not tell
        self.lower_links = 0  # and how many its lower object has
        self.metacopy = False  # the topmost object has no data; the last lower one does
        self.data_path = b""  # or, if this is set, the object of that path in a data-only layer
        self.redirect = b""  # of the upper object: where its lower ones are
        self.impure = False  # a directory whose upper children may have an origin
        self.xattr_whiteouts = False  # a directory marked opaque=x in some layer

    @property
    def is_dir(self) -> bool:
        return self.children is not None

    @property
    def real(self) -> Backing:
        """The topmost backing object: what attributes and data are taken from (ovl_path_real)."""
        return self.upper if self.upper is not None else self.lower[0]

    @property
    def is_merge(self) -> bool:
        """Whether it is made of several directories (OVL_TYPE_MERGE)."""
        return self.is_dir and len(self.lower) + (self.upper is not None) > 1

    @property
    def needs_redirect(self) -> bool:
        """Whether it would lose lower objects by a rename without one (ovl_type_merge_or_lower)."""
        return bool(self.lower) and (self.is_dir or self.metacopy)

    @property
    def has_upper_data(self) -> bool:
        """Whether it can be written to as it is."""
        return self.upper is not None and not self.metacopy

    def children_of(self) -> "dict[bytes, Inode]":
        """The children of a directory. NotADirectoryError for anything else."""
        if self.children is None:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return self.children

    def gains(self, name: bytes, kind: int) -> None:
        """Note that a directory has one name more."""
        self.nlink = 0
        if self.listing is not None:
            self.listing.add(name, kind)

    def loses(self, name: bytes) -> None:
        """Note that a directory has one name less."""
        self.nlink = 0
        if self.listing is not None:
            self.listing.remove(name)

    def path(self) -> bytes:
        """Path in the merged view, for events and messages."""
        names: list[bytes] = []
        node = self
        while node.parent is not None:
            names.append(node.name)
            node = node.parent
        return b"/".join(reversed(names))

    def path_of(self, name: bytes) -> bytes:
        """As :meth:`path`, of a name in this directory."""
        return b"/".join((self.path(), name)).lstrip(b"/")


class Prepared:
    """Inodes of one directory, made before anybody has asked for them (:mod:`.ahead`), with their attributes."""

    __slots__ = ("directory", "found")

    def __init__(self, directory: Inode | None = None) -> None:
        self.directory = directory
        self.found: dict[bytes, tuple[Inode, os.stat_result]] = {}


class InodeTable:
    """The inodes that somebody holds: the kernel by lookup count, or a child by its parent pointer."""

    def __init__(self) -> None:
        self._by_ino: dict[Ino, Inode] = {}
        self._hard_links: dict[tuple[int, int], Inode] = {}  # by (fsid, real st_ino)
        self._next_virtual = _VIRTUAL
        self._peak = 0  # most inodes since memory was last given back
        self._reserved: Collection[Ino] = ()  # handles that are somebody's already

    def __len__(self) -> int:
        return len(self._by_ino)

    def __iter__(self) -> Iterator[Inode]:
        return iter(list(self._by_ino.values()))

    def __getitem__(self, ino: Ino) -> Inode:
        """Raises ESTALE for a number that was never handed out or is forgotten."""
        try:
            return self._by_ino[ino]
        except KeyError:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None

    @property
    def root(self) -> Inode:
        """The inode of the root."""
        return self._by_ino[ROOT]

    def add_root(self, root: Inode) -> None:
        root.ino = ROOT
        root.lookups = 1
        self._by_ino[ROOT] = root

    def add(self, inode: Inode, st_ino: int) -> None:
        """Give a new inode its handle (its st_ino where nobody has it) and hang it below its parent."""
        ino = Ino(st_ino)
        while ino <= ROOT or ino in self._by_ino or ino in self._reserved:
            self._next_virtual += 1
            ino = Ino(self._next_virtual)
        inode.ino = ino
        self._by_ino[ino] = inode
        if len(self._by_ino) > _MANY:
            self._peak = max(self._peak, len(self._by_ino))
        if inode.parent is not None:
            inode.parent.children_of()[inode.name] = inode

    def __contains__(self, ino: Ino) -> bool:
        return ino in self._by_ino

    def reserve(self, handles: Collection[Ino]) -> None:
        """Give none of these to any inode, but by :meth:`renumber`."""
        self._reserved = handles

    def renumber(self, inode: Inode, ino: Ino) -> None:
        """Have an inode be known by another handle, beside the one it has if somebody holds it by that."""
        if inode.ino not in self._reserved:
            self._by_ino.pop(inode.ino, None)
            inode.ino = ino
        self._by_ino[ino] = inode
        self._next_virtual = max(self._next_virtual, ino)

    def hard_link(self, backing: Backing, real_ino: int) -> Inode | None:
        """The inode that is already known by another name of the same object."""
        return self._hard_links.get((backing.layer.fsid, real_ino))

    def remember_link(self, inode: Inode, backing: Backing, real_ino: int) -> None:
        """Have further names of a hard-linked object lead to this inode."""
        key = (backing.layer.fsid, real_ino)
        if key not in inode.link_keys:
            inode.link_keys += (key,)
            self._hard_links[key] = inode
        if inode.aliases is None:
            inode.aliases = {(inode.parent, inode.name)} if inode.parent is not None else set()

    def add_name(self, inode: Inode, parent: Inode, name: bytes, backing: Backing) -> None:
        """Record one more name of a hard-linked inode, whose object is ``backing``.

        It may be the only one: all that were known before may be gone, and the object pinned since.
        """
        assert inode.aliases is not None
        if inode.unlinked and inode.upper is not None:
            inode.upper.unpin(backing)
            inode.unlinked = False
            inode.parent, inode.name = parent, name
            inode.aliases.clear()
        elif inode.upper is None:
            inode.parent, inode.name = parent, name  # the last used is the one to be copied up
        inode.aliases.add((parent, name))
        parent.children_of()[name] = inode

    def forget(self, inode: Inode, count: int) -> list[Inode]:
        """Take back lookups; returns the inodes that nobody holds any more, for their files to be closed."""
        inode.lookups -= count
        dropped: list[Inode] = []
        candidates = [inode]
        while candidates:
            node = candidates.pop()
            if node.lookups > 0 or node.children or self._by_ino.get(node.ino) is not node or node.ino == ROOT:
                continue
            dropped.append(node)
            candidates += self._remove(node)
        if len(self._by_ino) * 4 < self._peak:
            self._give_back_memory()
        return dropped

    def _give_back_memory(self) -> None:
        """After a walk over many files is forgotten, have the process be as small as before it.

        A dict never shrinks by itself, and freed memory stays with the allocator.
        """
        self._by_ino = dict(self._by_ino)
        self._peak = 0
        gc.collect()
        linux.malloc_trim()

    def _remove(self, inode: Inode) -> list[Inode]:
        """Take an inode out; returns its parents, which may have been held by it alone."""
        del self._by_ino[inode.ino]
        for key in inode.link_keys:
            if self._hard_links.get(key) is inode:
                del self._hard_links[key]
        parents: list[Inode] = []
        for parent, name in inode.aliases or ((inode.parent, inode.name),):
            if parent is None:
                continue
            if parent.children_of().get(name) is inode:
                del parent.children_of()[name]
            parents.append(parent)
        return parents


def shown_ino(inode: Inode, real_ino: int) -> int:
    """The st_ino that people see of an inode, whose topmost object has the other one."""
    return inode.const_ino or map_ino(inode.real, real_ino)


def map_ino(backing: Backing, real_ino: int) -> int:
    """The st_ino that people see for a real one: unique over layers on several filesystems."""
    fsid = backing.layer.fsid
    return real_ino if fsid == 0 else real_ino ^ (fsid << _FSID_SHIFT)
