"""Directories as they are listed: which names come with their attributes, and what is looked up before it is asked.

The kernel takes a listing in parts, each of the size of its buffer, and each of which begins where the last one
ended. What is told of an inode with its name counts as a look-up.
"""

import stat
from collections.abc import Iterator

from ... import vfs
from ...vfs import Ino
from . import abi, replies
from .walk import Walk


class Listings:
    """READDIR and READDIRPLUS over one filesystem."""

    def __init__(self, operations: vfs.Operations) -> None:
        self._ops = operations
        self.walk = Walk(operations)
        self._long: dict[Ino, bool] = {}  # directories of more names than a reply holds: are attributes wanted?

    def looked_up_in(self, ino: Ino) -> None:
        """A name of the directory was: who lists it wants attributes."""
        if ino in self._long:
            self._long[ino] = True

    def forget(self, ino: Ino) -> None:
        self._long.pop(ino, None)

    def with_attributes(self, ino: Ino, after: int, size: int) -> bytes:
        """Attributes come with the names that fit into the first reply, and with further ones once somebody has
        looked up one of the directory's: who only lists it does not want them, and each costs a look-up.
        """
        found = replies.Dirents(size, plus=True)
        below: list[Ino] = []
        if not after:
            self.walk.begins(ino)
        goes_on = after > vfs.FIRST
        bare = goes_on and not self._long.get(ino, False)
        for entry, attr, held in self._entries(ino, after, size // (abi.DIRENTPLUS.size + 8) + 1, bare=bare):
            if not held or attr is None:
                found.add(entry, attr, held=held)
            elif not found.add(entry, attr):
                self._ops.forget(attr.ino, 1)
            elif entry.type == stat.S_IFDIR:
                below.append(attr.ino)
        told = found.encode()
        self.walk.goes_on(ino, below, ended=not told)
        if goes_on and told:
            self._long.setdefault(ino, False)
        return told

    def names(self, ino: Ino, after: int, size: int) -> bytes:
        found = replies.Dirents(size, plus=False)
        for entry, attr, held in self._entries(ino, after, size // (abi.DIRENT.size + 8) + 1, bare=True):
            found.add(entry, attr)
            if held and attr is not None:
                self._ops.forget(attr.ino, 1)
        return found.encode()

    def _entries(
        self, ino: Ino, after: int, count: int, *, bare: bool
    ) -> Iterator[tuple[vfs.DirEntry, vfs.Attr | None, bool]]:
        """The next entries of a listing, and whether their attributes are held, which is not so for the dots."""
        if after < vfs.FIRST:
            here, up = self._ops.getattr(ino), self._ops.getattr(self._ops.parent(ino))
            for entry, attr in replies.dots(here, up, after):
                yield entry, attr, False
        for found, attributes in self._ops.readdirplus(ino, max(after, vfs.FIRST), count, bare=bare):
            yield found, attributes, True
