"""Looking up what is in a directory before somebody asks: who walks a tree has work of its own between two
directories, and with a second processor ours can be done meanwhile.

What was made ahead is in nobody's hands: it is added to the table of inodes when a look-up takes it
(:func:`.lookup.look`), and dropped with the next directory that is prepared. It cannot become wrong until then: a
name is looked up before anything is done to it, and what has other names is not made ahead.
"""

from collections.abc import Iterator

from ..vfs import FIRST, Ino
from .inode import Prepared
from .lookup import directories_of, prepare
from .readdir import readdir
from .super import Superblock

_NAMES = 256  # a reply to the kernel holds no more
_SMALL = 1 << 14  # bytes of a directory; reading a larger one would keep others waiting


def ahead(sb: Superblock, ino: Ino) -> Iterator[None]:
    """Look up the names of a directory, one at each step. ESTALE for what is not held."""
    with sb.lock:
        directory = sb.table[ino]
        if directory.children_of() or directory.unlinked:
            return
        if any(backing.stat().st_size > _SMALL for backing in directories_of(directory)):
            return
        entries = readdir(sb, directory, FIRST, _NAMES)
        prepared = sb.prepared = Prepared(directory)
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
            if found is not None:
                prepared.found[entry.name] = found
