"""The names of one merged directory, kept up to date for as long as the directory is held.

So a name that it lacks needs no look at any layer. A position in it belongs to a name: the kernel's overlayfs keeps
a list for each opening, here a scan may go on after names came and went, and in a daemon that took over.
"""

from bisect import bisect_right, insort

from ..vfs import FIRST, DirEntry

_POSITIONS = (1 << 62) - 1  # of the 63 bits of a loff_t, with room for FIRST


class Listing:
    """The names of a merged directory and their types; positions are made when they are asked for."""

    __slots__ = ("_order", "names")

    def __init__(self, names: dict[bytes, int]) -> None:
        self.names = names
        self._order: list[tuple[int, bytes]] | None = None

    def add(self, name: bytes, kind: int) -> None:
        if self._order is not None and name not in self.names:
            insort(self._order, (position(name), name))
        self.names[name] = kind

    def remove(self, name: bytes) -> None:
        """What is removed stays in the order, so that removing many names one by one is cheap."""
        self.names.pop(name, None)

    def after(self, start: int, count: int | None) -> list[DirEntry]:
        """The next names after a position; the order is given up at the end of a scan."""
        if self._order is None:
            self._order = sorted((position(name), name) for name in self.names)
        order, names = self._order, self.names
        entries: list[DirEntry] = []
        at = bisect_right(order, start, key=_position_of)
        end = len(order)
        while at < end and (count is None or len(entries) < count):
            where, name = order[at]
            if (kind := names.get(name)) is not None:
                entries.append(DirEntry(name, kind, where))
            at += 1
        if (at >= end and count is None) or not entries:
            self._order = None
        return entries


def position(name: bytes) -> int:
    """Where a name stands in every listing: by its hash, which Python keys, so that nobody can make two collide."""
    return (hash(name) & _POSITIONS) + FIRST + 1


def _position_of(item: tuple[int, bytes]) -> int:
    return item[0]
