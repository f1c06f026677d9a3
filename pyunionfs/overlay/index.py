"""The index: what keeps the names of a lower hard link together over copy-up (``index=on``).

A lower file with several names is copied up to ``WORK/index``, under a name made of the file handle of the
lower object, and linked from there into the upper directory. Whoever finds another of its names in a lower
layer finds the copy by that handle, also after a remount. How many names the union shows is kept in the
xattr ``nlink``. Kernel: ovl_get_indexdir() in super.c, ovl_lookup_index() in namei.c, ovl_nlink_start() in
util.c; overlayfs.rst, "Inode properties", "index".

Where the lower filesystem has no file handles, the handle is of the invalid type 255 and holds the inode
number: the kernel, which would have no index there, takes such an entry for a stale one.
"""

import errno
import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import marks
from .backing import Backing
from .inode import Inode
from .layer import Layer
from .marks import Namespace, Origin
from .workdir import clear_away

if TYPE_CHECKING:
    from .super import Superblock

_INDEX = b"index"
_NO_HANDLE = 0xFF  # FILEID_INVALID
_OPEN_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Index:
    """The directory ``WORK/index`` of a mount."""

    def __init__(self, directory: Backing, lower: Sequence[Layer], namespace: Namespace) -> None:
        self._dir = directory
        self._lower = lower
        self._marks = namespace

    @classmethod
    def prepare(cls, work: Backing, upper: Layer, lower: Sequence[Layer], namespace: Namespace) -> "Index":
        """Open or make the index directory, and tie it to its upper and lower directories.

        Raises OSError(ESTALE) if it belongs to others (ovl_get_indexdir).
        """
        try:
            os.mkdir(_INDEX, 0o700, dir_fd=work.fd)
        except FileExistsError:
            pass
        index = cls.adopt(work, upper, lower, namespace)
        directory = index._dir
        try:
            if os.fstat(directory.fd).st_uid == os.geteuid():
                directory.chmod(0o700)  # the kernel makes it with no permissions at all
            _tie(upper.root, namespace.origin, lower[0].make_origin(lower[0].root), "the lower directories")
            _tie(directory, namespace.upper, upper.make_origin(upper.root, upper=True), "the upper directory")
            index._clean_up()
        except BaseException:
            index.close()
            raise
        return index

    @classmethod
    def adopt(cls, work: Backing, upper: Layer, lower: Sequence[Layer], namespace: Namespace) -> "Index":
        """Take the index directory as another process has it."""
        directory = work.child(_INDEX)
        directory.parent, directory.fd = None, os.open(_INDEX, _OPEN_DIRECTORY, dir_fd=work.fd)
        return cls(directory, lower, namespace)

    def close(self) -> None:
        os.close(self._dir.fd)

    def origin(self, lower: Backing) -> Origin:
        """The handle of a lower object, of our own making where its filesystem has none."""
        origin = lower.layer.make_origin(lower)
        if origin is not None:
            return origin
        identity = lower.stat().st_ino.to_bytes(8, "little") + bytes([lower.layer.fsid])
        return Origin(_NO_HANDLE, identity, lower.layer.uuid())

    def entry(self, origin: Origin) -> Backing:
        """Where the copy of a lower object is, or would be (ovl_get_index_name)."""
        return self._dir.child(origin.index_name())

    def find(self, inode: Inode) -> tuple[Backing, os.stat_result, int] | None:
        """The entry of a hard-linked inode, its attributes, and how many names the lower object has.

        Raises OSError(EIO) for an entry that cannot be the copy of this (ovl_lookup_index).
        """
        if inode.upper is not None:
            value = inode.upper.find_xattr(self._marks.origin)
            origin = Origin.decode(value) if value else None
            if origin is None:
                return None
        else:
            origin = self.origin(inode.lower[0])
        entry = self.entry(origin)
        try:
            st = entry.stat()
        except FileNotFoundError:
            return None
        if stat.S_IFMT(st.st_mode) != inode.type:
            raise OSError(errno.EIO, "an index entry of another type", entry.name)
        return entry, st, self._lower_links(origin) if inode.upper is not None else inode.lower[0].stat().st_nlink

    def remove(self, entry: bytes) -> None:
        """Remove the entry of an object that has lost its last name (ovl_cleanup_index): what is left, the next
        mount removes."""
        clear_away(self._dir, entry)

    def _lower_links(self, origin: Origin) -> int:
        for layer in self._lower:
            st = layer.find_origin(origin)
            if st is not None:
                return st.st_nlink
        return 0

    def _clean_up(self) -> None:
        """Remove temporary objects, and entries of which no name is left (ovl_indexdir_cleanup)."""
        for found in self._dir.scan():
            st = self._dir.child(found.name).stat()
            if stat.S_ISDIR(st.st_mode):
                if found.name.startswith(b"#"):
                    os.rmdir(found.name, dir_fd=self._dir.fd)
                continue
            if found.name.startswith(b"#") or (st.st_nlink == 1 and self._is_orphan(found.name, st)):
                os.unlink(found.name, dir_fd=self._dir.fd)

    def _is_orphan(self, name: bytes, st: os.stat_result) -> bool:
        """Whether neither the upper nor a lower directory has a name of it."""
        if marks.is_whiteout_device(st.st_mode, st.st_rdev):
            return False  # of the kernel: a handle that was exported is not to be found again
        value = self._dir.child(name).find_xattr(self._marks.origin)
        origin = Origin.decode(value) if value else None
        links = self._lower_links(origin) if origin is not None else 0
        nlink = self._dir.child(name).find_xattr(self._marks.nlink)
        return not marks.decode_nlink(nlink, upper=st.st_nlink, lower=links)


def must_copy_up(sb: "Superblock", inode: Inode) -> bool:
    """Whether an inode has to be in the index before it may lose a name: or its link count would be forgotten
    (ovl_nlink_start)."""
    return sb.index is not None and inode.upper is None and bool(inode.link_keys)


def _tie(directory: Backing, mark: str, origin: Origin | None, what: str) -> None:
    """Note what a directory belongs to, or check it (ovl_verify_set_fh)."""
    if origin is None:
        return
    value = directory.find_xattr(mark)
    if not value:
        directory.setxattr(mark, origin.encode())
    elif value != origin.encode():
        raise OSError(errno.ESTALE, f"the index directory was made for others than {what} (index=off mounts it)")
