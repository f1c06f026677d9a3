"""Copy-up: give an object of a lower layer its own copy in the upper directory (fs/overlayfs/copy_up.c).

It never tears: parents first, then data and metadata are built in the work directory, times last, and one
rename publishes the result. Data is copied outside of the namespace lock, so that a large file delays only
those who want to change that file.
"""

import errno
import os
import stat
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress

from .. import events
from . import marks, verity
from .backing import Backing
from .copy_data import copy_data
from .file import find_data, open_lower
from .held import note
from .index import must_copy_up
from .inode import Inode
from .listing import TYPE
from .merge import Kind
from .ownership import OVERRIDES, Owner
from .search import peek
from .super import Superblock
from .workdir import Workdir

_ACL = "system.posix_acl_"
_MUST_COPY = ("security.", _ACL)  # ovl_must_copy_xattr


def copy_up(sb: Superblock, inode: Inode, *, data: bool = True, size: int | None = None) -> None:
    """Make sure that an inode has an upper object.

    ``data`` says whether its data is needed there, or could stay below (metacopy). ``size`` bounds the data to
    copy: 0 for a file that is about to be emptied. Raises EROFS in a union without an upper layer, and
    whatever the copying met (ENOSPC, EDQUOT, EACCES); nothing is left then.
    """
    if inode.upper is not None and not (data and inode.metacopy):
        return
    sb.writable()
    if stat.S_ISREG(inode.type):
        with sb.copying(inode):
            if inode.upper is None:
                _copy_up_regular(sb, inode, size, data=data or not sb.params.metacopy)
            if data and inode.metacopy:
                _copy_up_data(sb, inode)
        return
    with sb.lock:
        if inode.upper is None:
            _copy_up_other(sb, inode)


def _parent_up(sb: Superblock, inode: Inode) -> Backing:
    """The upper directory of an inode's parent, with all of the chain above it copied up."""
    chain: list[Inode] = []
    node = inode.parent
    while node is not None and node.upper is None:
        chain.append(node)
        node = node.parent
    for directory in reversed(chain):
        _copy_up_other(sb, directory)
    assert inode.parent is not None and inode.parent.upper is not None
    return inode.parent.upper


def _copy_up_regular(sb: Superblock, inode: Inode, size: int | None, *, data: bool) -> None:
    _, workdir = sb.writable()
    source_fd = -1
    try:
        with sb.lock:
            if not inode.unlinked:
                _parent_up(sb, inode)
            source = inode.lower[0]
            st = source.stat()
            find_data(sb, inode)  # or fail now, also if only its metadata is to be copied (ovl_verify_lowerdata)
            source_fd = open_lower(sb, inode) if data or sb.params.verity != "off" else -1
            mark = None
            if not data:
                mark = verity.digest_of(source_fd) if source_fd >= 0 else marks.Metacopy()
                data = sb.params.verity == "require" and not mark.algorithm
            metadata = _Metadata(sb, inode, source, st, None if data else mark)
        length = 0 if not data else st.st_size if size is None else min(size, st.st_size)
        with workdir.temp_file() as (temp, fd):
            try:
                if data:
                    copy_data(source_fd, fd, length, syncs=sb.params.syncs, interrupted=sb.interrupted)
                else:
                    os.ftruncate(fd, st.st_size)
                metadata.apply(temp)
                if data and sb.params.syncs:
                    os.fsync(fd)  # or a crash after it got its name could show an empty file (ovl_copy_up_file)
                with sb.lock:
                    _publish(sb, inode, temp, length, metacopy=not data)
                    temp.open_fd = -1
                    if data:
                        sb.files.put(inode, fd, writable=True)
            except BaseException:
                temp.open_fd = -1
                os.close(fd)
                raise
            if not data:
                os.close(fd)
    finally:
        if source_fd >= 0:
            os.close(source_fd)


def _copy_up_data(sb: Superblock, inode: Inode) -> None:
    """Complete a metacopy in place (ovl_copy_up_meta_inode_data): it is one until its mark is removed.

    All of the data is copied, also if the file is about to be shortened: or a crash in between would show
    something that it never was.
    """
    upper = inode.upper
    assert upper is not None
    _, workdir = sb.writable()
    with sb.lock:
        st = upper.stat()
        capability = upper.find_xattr("security.capability")
        source_fd = open_lower(sb, inode)
        layer = inode.lower[-1].layer.index
        try:
            fd = _open_writable(workdir, upper)
        except BaseException:
            os.close(source_fd)
            raise
    try:
        copied = min(st.st_size, os.fstat(source_fd).st_size)
        copy_data(source_fd, fd, copied, syncs=sb.params.syncs, interrupted=sb.interrupted)
        if os.fstat(fd).st_size != st.st_size:
            os.ftruncate(fd, st.st_size)
        if capability is not None:  # which writing has cleared
            os.setxattr(fd, "security.capability", capability)
        if os.fstat(fd).st_mode != st.st_mode:
            os.fchmod(fd, stat.S_IMODE(st.st_mode))
        os.utime(fd, ns=(st.st_atime_ns, st.st_mtime_ns))
        if sb.params.syncs:
            os.fsync(fd)
        with sb.lock:
            with workdir.opened_up(upper):
                os.removexattr(fd, sb.marks.metacopy)
            inode.metacopy, inode.lower = False, ()
            sb.files.put(inode, fd, writable=True)
    except BaseException:
        os.close(fd)
        raise
    finally:
        os.close(source_fd)
    if sb.stale is not None:
        sb.stale(inode.ino)
    sb.emit(events.CopyUp(inode.path(), copied, layer))


def _open_writable(workdir: Workdir, upper: Backing) -> int:
    """Open a file of ours, also one whose mode forbids it to its owner."""
    try:
        return upper.open(os.O_RDWR)
    except PermissionError:
        with workdir.opened_up(upper):
            return upper.open(os.O_RDWR)


def _copy_up_other(sb: Superblock, inode: Inode) -> None:
    """A directory, symlink, fifo, socket or device: short, so all of it runs under the namespace lock."""
    _, workdir = sb.writable()
    source = inode.lower[0]
    st = source.stat()
    if not inode.unlinked:
        _parent_up(sb, inode)
    with workdir.temp() as temp:
        dir_fd, name = temp.at()
        if inode.is_dir:
            os.mkdir(name, 0o700, dir_fd=dir_fd)
        elif stat.S_ISLNK(inode.type):
            os.symlink(source.readlink(), name, dir_fd=dir_fd)
        else:
            os.mknod(name, inode.type | 0o600, st.st_rdev, dir_fd=dir_fd)
        _Metadata(sb, inode, source, st, None).apply(temp)
        _publish(sb, inode, temp, 0)


def _publish(sb: Superblock, inode: Inode, temp: Backing, length: int, *, metacopy: bool = False) -> None:
    """Move the finished copy to its place, or pin it, if the name is gone."""
    _, workdir = sb.writable()
    layer = inode.lower[0].layer
    if inode.unlinked:
        temp.pin()  # the temporary name is removed like any other
        inode.upper = temp
    elif must_copy_up(sb, inode):
        _publish_in_index(sb, inode, temp)
    else:
        assert inode.parent is not None and inode.parent.upper is not None
        mark_impure(sb, inode.parent)
        with _keeping_times(inode.parent.upper):
            workdir.install(temp, inode.parent.upper, inode.name)
        inode.upper = temp
    inode.metacopy = metacopy
    if not inode.is_dir and not metacopy:
        inode.lower, inode.data_path = (), b""
    sb.files.discard(inode)
    _note_name(inode.parent, inode.name)
    note(sb, inode)
    if sb.stale is not None:  # ctime, blocks, nlink and perhaps st_ino are those of the copy now
        sb.stale(inode.ino)
        if inode.parent is not None:
            sb.stale(inode.parent.ino)
    sb.emit(events.CopyUp(inode.path(), length, layer.index))


def _note_name(parent: Inode | None, name: bytes) -> None:
    """The topmost layer that has this name is the upper one now."""
    if parent is not None and parent.listing is not None and (kind := parent.listing.names.get(name)) is not None:
        parent.listing.names[name] = kind & TYPE


def _publish_in_index(sb: Superblock, inode: Inode, temp: Backing) -> None:
    """The copy of a hard link: into the index, and from there to its name (ovl_do_copy_up, to_index)."""
    _, workdir = sb.writable()
    assert sb.index is not None and inode.parent is not None
    lower = inode.lower[0]
    entry = sb.index.entry(sb.index.origin(lower))
    inode.nlink = inode.lower_links = lower.stat().st_nlink
    _try_setxattr(temp, sb.marks.nlink, marks.encode_nlink(inode.nlink, upper=1))
    assert entry.parent is not None
    workdir.install(temp, entry.parent, entry.name)
    inode.upper, inode.indexed = temp, True
    sb.table.remember_link(inode, temp, temp.stat().st_ino)
    link_up(sb, inode, inode.parent, inode.name)


def link_up(sb: Superblock, inode: Inode, parent: Inode, name: bytes) -> None:
    """Make sure that an indexed inode has a name in the upper directory too (ovl_link_up)."""
    copy_up(sb, parent)
    upper, source = parent.upper, inode.upper
    assert upper is not None and source is not None
    if peek(sb, upper, name, parent.xattr_whiteouts) is not Kind.ABSENT:
        return
    mark_impure(sb, parent)
    links = source.stat().st_nlink
    # For a crash in between: relative to the lower object, whose link count stays what it is.
    _try_setxattr(source, sb.marks.nlink, marks.encode_nlink(inode.nlink, lower=inode.lower_links))
    with _keeping_times(upper):
        (src_fd, src_name), dst_fd = source.at(), upper.dir_fd()
        os.link(src_name, name, src_dir_fd=src_fd, dst_dir_fd=dst_fd, follow_symlinks=False)
    _try_setxattr(source, sb.marks.nlink, marks.encode_nlink(inode.nlink, upper=links + 1))
    _note_name(parent, name)


@contextmanager
def _keeping_times(directory: Backing) -> Iterator[None]:
    times = directory.stat()
    yield
    with suppress(OSError):  # best effort, as in the kernel: the copy is there
        directory.utime(times.st_atime_ns, times.st_mtime_ns)


def mark_impure(sb: Superblock, directory: Inode) -> None:
    """Note on an upper directory that entries in it have an origin (ovl_set_impure)."""
    if not directory.impure and directory.upper is not None:
        _try_setxattr(directory.upper, sb.marks.impure, b"y")
        directory.impure = True


def _try_setxattr(backing: Backing, name: str, value: bytes) -> None:
    """Set a mark that only makes inode numbers constant: worth nothing on a filesystem that cannot."""
    try:
        backing.setxattr(name, value)
    except OSError as error:
        # EPERM: user.* is not for symlinks and special files; EACCES: nor for what we may not write to.
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES):
            raise


class _Metadata:
    """What a copy takes over besides its data; read under the namespace lock, applied outside of it."""

    def __init__(
        self, sb: Superblock, inode: Inode, source: Backing, st: os.stat_result, metacopy: marks.Metacopy | None
    ) -> None:
        self._st = st
        self._metacopy = metacopy
        self._namespace = sb.marks
        self._ownership = sb.ownership
        self._owner = Owner.of(st) if sb.ownership is None else sb.ownership.of(source, st)
        kept = [name for name in source.listxattr() if not sb.is_private(name)]
        if source.layer.override is not None:
            kept = [name for name in kept if name not in OVERRIDES]
        self._xattrs = {name: source.getxattr(name) for name in kept}
        # None for one of several hard links: the copy is no longer the same object as the others.
        self._origin: bytes | None = None
        if sb.index is not None and must_copy_up(sb, inode):
            self._origin = sb.index.origin(source).encode()
        elif stat.S_ISDIR(st.st_mode) or st.st_nlink == 1:
            origin = source.layer.make_origin(source)
            self._origin = origin.encode() if origin is not None else b""

    def apply(self, copy: Backing) -> None:
        """Owner first (chown clears setuid and capabilities), xattrs before the mode (which may forbid them to an
        ordinary user), the ACL after the mode (which it refines), times last."""
        st, owner = self._st, self._owner
        mine = copy.stat()
        if self._ownership is None and (mine.st_uid, mine.st_gid) != (owner.uid, owner.gid):
            copy.chown(owner.uid, owner.gid)
        acls = {name for name in self._xattrs if name.startswith(_ACL)}
        self._set_xattrs(copy, self._xattrs.keys() - acls)
        if self._origin is not None:
            _try_setxattr(copy, self._namespace.origin, self._origin)
        if self._metacopy is not None:
            copy.setxattr(self._namespace.metacopy, self._metacopy.encode())
        if self._ownership is not None:
            self._ownership.give(copy, mine, owner)
        elif not stat.S_ISLNK(st.st_mode):
            copy.chmod(owner.mode)
        self._set_xattrs(copy, acls)
        copy.utime(st.st_atime_ns, st.st_mtime_ns)

    def _set_xattrs(self, copy: Backing, names: Set[str]) -> None:
        for name in names:
            try:
                copy.setxattr(name, self._xattrs[name])
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP or name.startswith(_MUST_COPY):
                    raise
