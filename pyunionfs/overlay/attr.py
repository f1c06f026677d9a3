"""Attributes: getattr, setattr, readlink, statfs (ovl_getattr, ovl_setattr in inode.c; super.c)."""

import os
import stat
import time

from ..vfs import Attr, SetAttr, Statfs
from .backing import Backing
from .file import truncate
from .inode import Inode, shown_ino
from .ownership import Owner, Ownership
from .readdir import readdir
from .super import Superblock

_DAY_NS = 86_400 * 10**9


def getattr(sb: Superblock, inode: Inode, st: os.stat_result | None = None) -> Attr:
    """What stat(2) shows: the attributes of the topmost backing object, with the union's numbers.

    ``st`` are the backing object's attributes, where the caller has just read them.
    """
    real = inode.real
    if st is None:
        st = real.stat()
    mode, uid, gid = st.st_mode, st.st_uid, st.st_gid
    if sb.ownership is not None:
        owner = sb.ownership.shown(real, st)
        mode, uid, gid = stat.S_IFMT(mode) | owner.mode, owner.uid, owner.gid
    if inode.is_dir:
        nlink = 0 if inode.unlinked else _links_of_merged(sb, inode) if inode.is_merge else st.st_nlink
    elif inode.indexed:
        nlink = inode.nlink
    else:  # what is whited out still has its name in the lower layer
        nlink = 0 if inode.unlinked and inode.upper is None else st.st_nlink
    return Attr(
        inode.ino,
        shown_ino(inode, st.st_ino),
        mode,
        nlink,
        uid,
        gid,
        st.st_rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0,
        st.st_size,
        _blocks_of_data(inode, st) if inode.metacopy else st.st_blocks,
        max(st.st_atime_ns, inode.read_ns),
        st.st_mtime_ns,
        st.st_ctime_ns,
    )


def _links_of_merged(sb: Superblock, directory: Inode) -> int:
    """1, as in the kernel: "not counted"; with ``posix=on`` 2 and one for each directory in it, as find(1) expects.
    Counted when asked for, and again after one came or went."""
    if not sb.params.posix:
        return 1
    if not directory.nlink:
        directory.nlink = 2 + sum(entry.type == stat.S_IFDIR for entry in readdir(sb, directory))
    return directory.nlink


def note_read(inode: Inode) -> None:
    """With ``posix=on``, have a read of a lower object show in its atime, by the rule of relatime (mount(8)).

    Lower layers are not written to, so it is kept in memory, and forgotten at the unmount.
    """
    now = time.time_ns()
    if inode.upper is not None or now - inode.read_ns < _DAY_NS:
        return
    st = inode.real.stat()
    if st.st_atime_ns <= max(st.st_mtime_ns, st.st_ctime_ns) or now - st.st_atime_ns >= _DAY_NS:
        inode.read_ns = now


def _blocks_of_data(inode: Inode, st: os.stat_result) -> int:
    """The room that the data of a metacopy takes: guessed, rather than looked up, in data-only layers."""
    if inode.data_path:
        return -(-st.st_size // st.st_blksize) * st.st_blksize // 512
    return inode.lower[-1].stat().st_blocks


def setattr(sb: Superblock, inode: Inode, changes: SetAttr) -> None:
    """Change attributes of an inode that has been copied up."""
    upper = inode.upper
    assert upper is not None
    if changes.size is not None:
        truncate(sb, inode, changes.size, kill_suid=changes.kill_suid)
    if sb.ownership is not None:
        _give(sb.ownership, upper, changes)
        changes = changes._replace(uid=None, gid=None, mode=None)
    if changes.uid is not None or changes.gid is not None:
        upper.chown(-1 if changes.uid is None else changes.uid, -1 if changes.gid is None else changes.gid)
    if changes.mode is not None:
        upper.chmod(stat.S_IMODE(changes.mode))
    if changes.atime_ns is not None or changes.mtime_ns is not None:
        upper.utime(changes.atime_ns, changes.mtime_ns)


def _give(ownership: Ownership, upper: Backing, changes: SetAttr) -> None:
    if changes.uid is changes.gid is changes.mode is None:
        return
    st = upper.stat()
    owner = ownership.of(upper, st)
    uid, gid = ownership.meant(changes.uid or 0, changes.gid or 0)
    wanted = Owner(
        owner.uid if changes.uid is None else uid,
        owner.gid if changes.gid is None else gid,
        owner.mode if changes.mode is None else stat.S_IMODE(changes.mode),
    )
    ownership.give(upper, st, wanted)


def statfs(sb: Superblock) -> Statfs:
    """The room of the upper filesystem, or of the top layer's where the union is read-only (ovl_statfs)."""
    st = os.fstatvfs(sb.layers[0].root.fd)
    return Statfs(
        st.f_bsize,
        st.f_frsize,
        st.f_blocks,
        st.f_bfree,
        st.f_bavail,
        st.f_files,
        st.f_ffree,
        st.f_favail,
        st.f_namemax,
    )
