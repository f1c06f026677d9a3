"""What the kernel holds of this mount, in memory that outlives the daemon: a log of ``vfs.Held``, the latest of an
inode counting.

The memory is a file without a name (memfd_create(2)). A record counts once the length at the beginning says so,
which is one store: a process that dies in the middle of writing one leaves the log without it.
"""

import mmap
import os
import threading
from collections.abc import Iterator
from struct import Struct
from typing import Any

from ...vfs import Held, Ino

_LENGTH = Struct("=Q")  # of the log, with itself
_RECORD = Struct("=QIIQQQiHHHH")
"""ino, lookups, opens, parent, new_parent, st_ino, fd, layer, sizes of name, new_name and path, which follow"""
_EXCHANGE = 0  # instead of an ino: st_ino is a request's unique, parent the ino exchanged, new_parent the thread
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
        self._compact_at = len(self._map)
        self._appending = threading.Lock()

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

    def note_exchange(self, unique: int, ino: Ino) -> None:
        self._append(_exchange(unique, ino, threading.get_native_id()))

    def exchanges(self) -> dict[int, Ino]:
        """By a request's unique, what it is to exchange: all that have not been answered, and perhaps others."""
        return dict(self._exchanges().values())

    def _exchanges(self) -> dict[int, tuple[int, Ino]]:
        """The latest of each thread."""
        return {record[4]: (record[5], record[3]) for record, _ in self._records() if record[0] == _EXCHANGE}

    def _append(self, record: bytes) -> None:
        with self._appending:
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
        for (ino, lookups, opens, parent, new_parent, st_ino, fd, layer, *_), texts in self._records():
            name, new_name, path = texts
            if lookups:
                found[ino] = Held(ino, lookups, opens, parent, name, new_parent, new_name, st_ino, fd, layer, path)
            elif ino != _EXCHANGE:
                found.pop(ino, None)
        return found

    def _records(self) -> Iterator[tuple[tuple[Any, ...], list[bytes]]]:
        """Each with its texts, the oldest first."""
        at = _LENGTH.size
        while at < self._end:
            record = _RECORD.unpack_from(self._map, at)
            at += _RECORD.size
            texts = []
            for size in record[-3:]:
                texts.append(self._map[at : at + size])
                at += size
            yield record, texts

    def descriptors(self) -> set[int]:
        """Those that hold objects without a name."""
        return {held.fd for held in self.read().values() if held.fd >= 0}

    def _make_room(self, size: int) -> None:
        """Write the log anew with what counts, into another file that takes the place of this one in one step."""
        counting, exchanges = self.read(), self._exchanges()
        room = _RECORD.size * len(exchanges) + sum(
            _RECORD.size + len(held.name) + len(held.new_name) + len(held.path) for held in counting.values()
        )
        fd = Ledger.make()
        os.ftruncate(fd, max(_FIRST_SIZE, _GROWTH * (room + size)))
        fresh = Ledger(fd)
        for held in counting.values():
            fresh.note(held)
        for thread, (unique, ino) in exchanges.items():
            fresh._append(_exchange(unique, ino, thread))
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)
        self._map.close()
        self._map, self._end, self._compact_at = fresh._map, fresh._end, fresh._compact_at

    def close(self) -> None:
        self._map.close()


def _exchange(unique: int, ino: Ino, thread: int) -> bytes:
    return _RECORD.pack(_EXCHANGE, 0, 0, ino, thread, unique, -1, 0, 0, 0, 0)
