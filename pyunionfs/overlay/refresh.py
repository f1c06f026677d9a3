"""Looking at the layers again, after somebody changed one behind our back.

The kernel says of such changes that "the behavior is undefined" (overlayfs.rst, "Changes to underlying
filesystems"). Here they are seen at last when somebody asks for it, and never take the mount down.
"""

from ..vfs import Change
from . import merge
from .inode import Inode, Prepared
from .lookup import directories_of, fill
from .readdir import readdir
from .search import Search
from .super import Superblock


def refresh(sb: Superblock) -> list[Change]:
    """Tie every inode that is held to what the layers have now; returns what the kernel may hold that is not so."""
    sb.prepared = Prepared()
    changes: list[Change] = []
    directories = [sb.table.root]
    while directories:
        directory = directories.pop()
        children = directory.children_of()
        directory.nlink, directory.listing, directory.probes = 0, None, 0
        for name, inode in list(children.items()):
            if not _still_there(sb, directory, name, inode):
                _detach(sb, directory, name, inode)
                changes.append(Change(inode.ino, directory.ino, (name,)))
                continue
            changes.append(Change(inode.ino, directory.ino, ()))
            if inode.is_dir:
                directories.append(inode)
        # Of a name that appeared, the kernel may remember that there was nothing.
        appeared = tuple(entry.name for entry in readdir(sb, directory) if entry.name not in children)
        changes.append(Change(directory.ino, directory.ino, appeared))
    return changes


def _still_there(sb: Superblock, parent: Inode, name: bytes, inode: Inode) -> bool:
    """Whether a name still leads to an object of this kind; if so, the inode is tied to it."""
    if inode.indexed or inode.aliases is not None:
        return True  # kept together by other means than its name
    search = Search(sb, directories_of(parent), name, parent.xattr_whiteouts)
    try:
        resolution = merge.resolve(search.findings())
        st = search.found[resolution.providers[0]].st if resolution.exists else None
        is_upper = st is not None and search.found[resolution.providers[0]].backing.layer is sb.upper
        if st is None or st.st_mode & 0o170000 != inode.type or is_upper != (inode.upper is not None):
            return False
        upper, lower = inode.upper, inode.lower
        fill(sb, inode, search, resolution)
    except OSError:
        return False
    for backing in lower:
        backing.drop()
    if upper is None or upper.stat().st_ino != st.st_ino:
        sb.files.discard(inode)
    if upper is not None:
        inode.upper = upper  # the same, with its descriptor
    return True


def _detach(sb: Superblock, parent: Inode, name: bytes, inode: Inode) -> None:
    """Take away a name that leads elsewhere now; who holds the inode keeps what is open of it."""
    del parent.children_of()[name]
    inode.unlinked = True
