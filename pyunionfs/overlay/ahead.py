"""Looking up what is in a directory before somebody asks: who walks a tree has work of its own between two
directories, and with a second processor ours can be done meanwhile.

What was made ahead is in nobody's hands: it is added to the table of inodes when a look-up takes it
(:func:`.lookup.look`), and dropped with the next directory that is prepared. It cannot become wrong until then: a
name is looked up before anything is done to it, and what has other names is not made ahead.

And having the disk read small files before somebody does: who has read some files of a directory, and waited for
each of them, is going to read others. What is in the page cache cannot be wrong either.
"""

import os
import stat
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from ..vfs import FIRST, Ino
from .backing import Backing
from .inode import Inode, Prepared
from .listing import LAYER_SHIFT, LAYERS, TYPE, position
from .lookup import directories_of, prepare
from .readdir import listing, readdir
from .super import Superblock

_NAMES = 256  # a reply to the kernel holds no more
_SMALL = 1 << 14  # bytes of a directory; reading a larger one would keep others waiting
_SURE = 3  # files of a directory that were waited for
_WINDOW = 8  # files, for each one that is
_SMALL_FILE = 1 << 16  # bytes; in a larger one the kernel reads ahead
_DIRECTORIES = 256  # that are watched


def ahead(sb: Superblock, ino: Ino, *, keep: bool) -> Iterator[None]:
    """Look up the names of a directory, one at each step. Without ``keep`` nothing is prepared by it, but that the
    disk has been read. ESTALE for what is not held.
    """
    with sb.lock:
        directory = sb.table[ino]
        if directory.children_of() or directory.unlinked or not _is_small(directory):
            return
        had = directory.listing
        entries = readdir(sb, directory, FIRST, _NAMES)
        prepared = sb.prepared = Prepared(directory if keep else None)
        if not keep:
            directory.listing = had
    for entry in entries:
        yield
        with sb.lock:
            if sb.prepared is not prepared:  # another directory's, or a refresh has let go of it
                return
            if entry.name in directory.children_of():
                continue
            try:
                found = prepare(sb, directory, entry.name)
            except OSError:  # who asks for it is told
                continue
            if found is not None and keep:
                prepared.found[entry.name] = found


@dataclass(slots=True)
class _Watched:
    """A directory, files of which were waited for."""

    waits: int = 0
    left: list[bytes] | None = None  # the files that nobody has read, in the order of the listing


class Data:
    """Which files are likely to be read after those that had to be waited for: the next ones in the listing."""

    def __init__(self, sb: Superblock) -> None:
        self._sb = sb
        self._watched: OrderedDict[Ino, _Watched] = OrderedDict()

    def ahead(self, ino: Ino) -> Iterator[None]:
        """A file was waited for: have the disk read others, one at each step. ESTALE for what is not held."""
        with self._sb.lock:
            file = self._sb.table[ino]
            directory = file.parent
            if directory is None or directory.unlinked:
                return
            left = self._left(directory)
            if file.name not in left:
                return
            at = left.index(file.name)
            del left[at]
            names = left[at : at + _WINDOW]
        for name in names:
            yield
            with self._sb.lock, suppress(OSError):  # who reads it is told
                if name in left:
                    left.remove(name)
                    self._fetch(directory, name)

    def _left(self, directory: Inode) -> list[bytes]:
        """One more file was waited for; what is left of the others, once it is worth it."""
        watched = self._watched.pop(directory.ino, None) or _Watched()
        self._watched[directory.ino] = watched
        if len(self._watched) > _DIRECTORIES:
            self._watched.popitem(last=False)
        watched.waits += 1
        if watched.waits < _SURE:
            return []
        if watched.left is None:
            names = listing(self._sb, directory).names if _is_small(directory) else {}
            watched.left = sorted((name for name in names if stat.S_ISREG(names[name] & TYPE)), key=position)
        return watched.left

    def _fetch(self, directory: Inode, name: bytes) -> None:
        """From the layer where the listing has found it."""
        layer = listing(self._sb, directory).names.get(name, 0) >> LAYER_SHIFT & LAYERS
        for part in directories_of(directory):
            if part.layer.index == layer:
                _have_read(part.child(name))


def _have_read(file: Backing) -> None:
    fd = file.open(os.O_RDONLY)
    try:
        if os.fstat(fd).st_size <= _SMALL_FILE:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(fd)


def _is_small(directory: Inode) -> bool:
    return all(backing.stat().st_size <= _SMALL for backing in directories_of(directory))
