"""The names of one merged directory, kept up to date for as long as the directory is held.

So a name that it lacks needs no look at any layer. A position in it belongs to a name: the kernel's overlayfs keeps
a list for each opening, here a scan may go on after names came and went, and in a daemon that took over.
"""

from bisect import bisect_left, bisect_right

from ..vfs import FIRST, DirEntry

_POSITIONS = (1 << 62) - 1  # of the 63 bits of a loff_t, with room for FIRST


LAYER_SHIFT, INO_SHIFT = 16, 32
"""Above the S_IFMT bits of a name stands the index of the topmost layer that has it, and above that its st_ino, or
0 where only a look-up tells."""
TYPE = (1 << LAYER_SHIFT) - 1
LAYERS = (1 << INO_SHIFT - LAYER_SHIFT) - 1


class Listing:
    """The names of a merged directory, with their types, topmost layers and numbers; positions are made when asked
    for."""

    __slots__ = ("_order", "names")

    def __init__(self, names: dict[bytes, int]) -> None:
        self.names = names
        self._order: list[tuple[int, bytes]] | None = None

    def add(self, name: bytes, kind: int) -> None:
        """A name of an object in the upper layer, which is that of index 0."""
        if self._order is not None:
            item = position(name), name
            at = bisect_left(self._order, item)
            if self._order[at : at + 1] != [item]:  # or it was removed during this scan, and has its place still
                self._order.insert(at, item)
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
                entries.append(DirEntry(name, kind & TYPE, where, kind >> INO_SHIFT))
            at += 1
        if (at >= end and count is None) or not entries:
            self._order = None
        return entries


def position(name: bytes) -> int:
    """Where a name stands in every listing: by its hash, which Python keys, so that nobody can make two collide."""
    return (hash(name) & _POSITIONS) + FIRST + 1


def _position_of(item: tuple[int, bytes]) -> int:
    return item[0]
