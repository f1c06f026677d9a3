"""What the kernel holds of this mount, in memory that outlives the daemon: a log of ``vfs.Held``, the latest of an
inode counting.

The memory is a file without a name (memfd_create(2)). A record counts once the length at the beginning says so,
which is one store: a process that dies in the middle of writing one leaves the log without it.
"""

import mmap
import os
from struct import Struct

from ...vfs import Held, Ino

_LENGTH = Struct("=Q")  # of the log, with itself
_RECORD = Struct("=QIIQQQiHHHH")
"""ino, lookups, opens, parent, new_parent, st_ino, fd, layer, sizes of name, new_name and path, which follow"""
_PATH_MAX = (1 << 16) - 1
_FIRST_SIZE = 1 << 20
_GROWTH = 4  # the log is written anew once that many times as large as what counts in it


class Ledger:
    """A ``vfs.Journal`` in the file of a descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        if os.fstat(fd).st_size < _FIRST_SIZE:
            os.ftruncate(fd, _FIRST_SIZE)
        self._map = mmap.mmap(fd, 0)
        self._end = _LENGTH.unpack_from(self._map)[0] or _LENGTH.size
        self._compact_at = _FIRST_SIZE

    @staticmethod
    def make() -> int:
        """A descriptor for a new one."""
        return os.memfd_create("pyunionfs-ledger", os.MFD_CLOEXEC)

    def note(self, held: Held) -> None:
        ino, lookups, opens, parent, name, new_parent, new_name, st_ino, fd, layer, path = held
        path = path[:_PATH_MAX]
        sizes = len(name), len(new_name), len(path)
        head = _RECORD.pack(ino, lookups, max(opens, 0), parent, new_parent, st_ino, fd, layer, *sizes)
        self._append(head + name + new_name + path)

    def note_named(self, ino: Ino, lookups: int, opens: int, parent: Ino, name: bytes, st_ino: int) -> None:
        self._append(_RECORD.pack(ino, lookups, opens, parent, 0, st_ino, -1, 0, len(name), 0, 0) + name)

    def drop(self, ino: Ino) -> None:
        self._append(_RECORD.pack(ino, 0, 0, 0, 0, 0, -1, 0, 0, 0, 0))

    def _append(self, record: bytes) -> None:
        end = self._end + len(record)
        if end > self._compact_at:
            self._make_room(len(record))
            end = self._end + len(record)
        self._map[self._end : end] = record
        self._end = end
        _LENGTH.pack_into(self._map, 0, end)

    def read(self) -> dict[Ino, Held]:
        """The latest of each inode that somebody holds."""
        found: dict[Ino, Held] = {}
        at = _LENGTH.size
        while at < self._end:
            record = _RECORD.unpack_from(self._map, at)
            ino, lookups, opens, parent, new_parent, st_ino, fd, layer, *sizes = record
            at += _RECORD.size
            texts = []
            for size in sizes:
                texts.append(self._map[at : at + size])
                at += size
            name, new_name, path = texts
            if lookups:
                found[ino] = Held(ino, lookups, opens, parent, name, new_parent, new_name, st_ino, fd, layer, path)
            else:
                found.pop(ino, None)
        return found

    def descriptors(self) -> set[int]:
        """Those that hold objects without a name."""
        return {held.fd for held in self.read().values() if held.fd >= 0}

    def _make_room(self, size: int) -> None:
        """Write the log anew with what counts, into another file that takes the place of this one in one step."""
        fresh = Ledger.__new__(Ledger)
        fd = Ledger.make()
        counting = self.read()
        room = sum(
            _RECORD.size + len(held.name) + len(held.new_name) + len(held.path) for held in counting.values()
        )
        length = max(_FIRST_SIZE, _GROWTH * (room + size))
        os.ftruncate(fd, length)
        fresh._fd, fresh._map, fresh._end, fresh._compact_at = fd, mmap.mmap(fd, 0), _LENGTH.size, length
        for held in counting.values():
            fresh.note(held)
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)
        self._map.close()
        self._map, self._end, self._compact_at = fresh._map, fresh._end, length

    def close(self) -> None:
        self._map.close()
