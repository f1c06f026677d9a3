"""Requests of the kernel, decoded to calls of ``vfs.Operations``: a method for each opcode, with its name.

A method answers with the bytes of its reply, or with how many bytes it has put into ``call.out``. It raises
``OSError`` for an error, which the session sends; WouldWaitError, in a call that may not wait, asks to be called
again when it may. Nothing here decides what a filesystem does.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

from ... import linux, vfs
from ...vfs import Caller, Extent, Ino, SetAttr, WouldWaitError
from ..mount import INFO_XATTR
from . import abi, replies
from .abi import Opcode, SetAttrValid
from .files import ByRequest, Files
from .listings import Listings

_G = 10**9
_MOST_FORGOTTEN = 2  # at a time: each may hold two descriptors
_INFO = INFO_XATTR.encode()
_ACL = b"system.posix_acl_access"
_FLAGS_OF = {linux.FS_IOC_GETFLAGS: False, linux.FS_IOC_FSGETXATTR: True}
_SET_FLAGS_OF = {linux.FS_IOC_SETFLAGS: False, linux.FS_IOC_FSSETXATTR: True}


class Call:
    """One request: its header, where its arguments and its names or data are, and where a reply may be put."""

    __slots__ = (
        "at",
        "gid",
        "head",
        "may_wait",
        "nodeid",
        "opcode",
        "out",
        "payload",
        "pid",
        "soon",
        "uid",
        "unique",
    )

    def __init__(self, head: bytearray | memoryview, at: int, out: memoryview) -> None:
        self.head = head  # holds the arguments, from ``at`` on
        self.at = at
        self.out = out
        self.opcode = 0
        self.unique = 0
        self.nodeid = Ino(0)
        self.uid = 0
        self.gid = 0
        self.pid = 0
        self.payload: memoryview = out[:0]
        self.may_wait = True
        self.soon = False  # it may not, and a disk has been asked for what it needs


Reply = bytes | int | None
"""Bytes to send; how many bytes of ``call.out`` to send; None: this request has no reply."""


class Requests:
    """All opcodes over one filesystem."""

    def __init__(
        self,
        operations: vfs.Operations,
        *,
        info: Callable[[], bytes],
        orders: Mapping[str, Callable[["Call"], bytes]],
        files: Files | None,
    ) -> None:
        """``orders`` are carried out for the owner of the mount who reads such an xattr of the root, and return its
        value; ``files`` are the open files, None: the kernel tells of none.
        """
        self._ops = operations
        self._info = info
        self._orders = {xattr.encode(): order for xattr, order in orders.items()}
        self._files = files
        self.listings = Listings(operations)
        self.unsynced = 0  # bytes written since something was synced
        self._forgotten: deque[tuple[Ino, int]] = deque()
        self.by_opcode: dict[int, Callable[[Call], Reply]] = {
            opcode: getattr(self, opcode.name.lower()) for opcode in Opcode if hasattr(self, opcode.name.lower())
        }

    # -- names -----------------------------------------------------------------------------------------

    def lookup(self, call: Call) -> Reply:
        self.listings.looked_up_in(call.nodeid)
        try:
            return replies.entry(self._ops.lookup(call.nodeid, bytes(call.payload[:-1])))
        except FileNotFoundError:
            return replies.NEGATIVE

    def forget(self, call: Call) -> Reply:
        """Nobody waits for it, and to let go of a file that was removed may take the disk a while."""
        (lookups,) = abi.FORGET_IN.unpack_from(call.head, call.at)
        self._forgotten.append((call.nodeid, lookups))
        if len(self._forgotten) > _MOST_FORGOTTEN:
            self.let_go()
        return None

    @property
    def has_forgotten(self) -> bool:
        """Whether there is something to let go of."""
        return bool(self._forgotten)

    def let_go(self) -> bool:
        """Do what the oldest FORGET says; False if there is none."""
        try:
            ino, lookups = self._forgotten.popleft()
        except IndexError:
            return False
        self._forget(ino, lookups)
        return True

    def _forget(self, ino: Ino, lookups: int) -> None:
        self.listings.forget(ino)
        with suppress(OSError):  # what was lost with another daemon
            self._ops.forget(ino, lookups)

    def batch_forget(self, call: Call) -> Reply:
        count, _ = abi.BATCH_FORGET_IN.unpack_from(call.head, call.at)
        for ino, lookups in abi.FORGET_ONE.iter_unpack(call.payload[: count * abi.FORGET_ONE.size]):
            self._forget(ino, lookups)
        return None

    def mknod(self, call: Call) -> Reply:
        mode, rdev, umask, _ = abi.MKNOD_IN.unpack_from(call.head, call.at)
        major, minor = (rdev >> 8) & 0xFFF, (rdev & 0xFF) | ((rdev >> 12) & 0xFFF00)  # new_decode_dev
        caller = Caller(call.uid, call.gid, umask)
        return replies.entry(
            self._ops.mknod(call.nodeid, bytes(call.payload[:-1]), mode, os.makedev(major, minor), caller)
        )

    def mkdir(self, call: Call) -> Reply:
        mode, umask = abi.MKDIR_IN.unpack_from(call.head, call.at)
        caller = Caller(call.uid, call.gid, umask)
        return replies.entry(self._ops.mkdir(call.nodeid, bytes(call.payload[:-1]), mode, caller))

    def symlink(self, call: Call) -> Reply:
        name, target = bytes(call.payload).split(b"\0")[:2]
        return replies.entry(self._ops.symlink(call.nodeid, name, target, Caller(call.uid, call.gid)))

    def link(self, call: Call) -> Reply:
        (ino,) = abi.LINK_IN.unpack_from(call.head, call.at)
        self._wait_for(call, ino)
        return replies.entry(self._ops.link(ino, call.nodeid, bytes(call.payload[:-1])))

    def unlink(self, call: Call) -> Reply:
        name = bytes(call.payload[:-1])
        self._wait_for(call, call.nodeid, name, removing=True)
        self._ops.unlink(call.nodeid, name)
        return b""

    def rmdir(self, call: Call) -> Reply:
        self._ops.rmdir(call.nodeid, bytes(call.payload[:-1]))
        return b""

    def rename(self, call: Call) -> Reply:
        (parent,) = abi.RENAME_IN.unpack_from(call.head, call.at)
        return self._rename(call, parent, 0)

    def rename2(self, call: Call) -> Reply:
        parent, flags, _ = abi.RENAME2_IN.unpack_from(call.head, call.at)
        return self._rename(call, parent, flags)

    def _rename(self, call: Call, parent: Ino, flags: int) -> Reply:
        old, new = bytes(call.payload).split(b"\0")[:2]
        self._wait_for(call, call.nodeid, old)
        if flags & linux.RENAME_EXCHANGE:
            self._wait_for(call, parent, new)
            self._note_exchange(call, old)
        self._ops.rename(call.nodeid, old, parent, new, flags)
        return b""

    def _note_exchange(self, call: Call, name: bytes) -> None:
        """Have a successor that gets this request again tell whether it was done."""
        if (journal := self._ops.journal) is not None:
            journal.note_exchange(call.unique & ~abi.RESENT, self.ino_at(call.nodeid, name))

    def ino_at(self, parent: Ino, name: bytes) -> Ino:
        """What is there now. Raises as ``lookup``."""
        ino = self._ops.lookup(parent, name).ino
        self._ops.forget(ino, 1)
        return ino

    def _wait_for(self, call: Call, ino: Ino, name: bytes | None = None, *, removing: bool = False) -> None:
        """Raises WouldWaitError if the call would take long and may not."""
        if not call.may_wait and self._ops.slow(ino, name, removing=removing):
            raise WouldWaitError

    # -- attributes ------------------------------------------------------------------------------------

    def getattr(self, call: Call) -> Reply:
        return replies.attributes(self._ops.getattr(call.nodeid))

    def setattr(self, call: Call) -> Reply:
        valid, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = (
            abi.SETATTR_IN.unpack_from(call.head, call.at)
        )
        self._wait_for(call, call.nodeid)
        changes = SetAttr(
            mode=mode if valid & SetAttrValid.MODE else None,
            uid=uid if valid & SetAttrValid.UID else None,
            gid=gid if valid & SetAttrValid.GID else None,
            size=size if valid & SetAttrValid.SIZE else None,
            atime_ns=_time(valid, SetAttrValid.ATIME, SetAttrValid.ATIME_NOW, atime, atime_ns),
            mtime_ns=_time(valid, SetAttrValid.MTIME, SetAttrValid.MTIME_NOW, mtime, mtime_ns),
            kill_suid=bool(valid & SetAttrValid.KILL_SUIDGID),
        )
        return replies.attributes(self._ops.setattr(call.nodeid, changes, Caller(call.uid, call.gid)))

    def statx(self, call: Call) -> Reply:
        return replies.statx(self._ops.getattr(call.nodeid), self._ops.birth_time(call.nodeid))

    def readlink(self, call: Call) -> Reply:
        return self._ops.readlink(call.nodeid)

    def statfs(self, call: Call) -> Reply:
        return replies.statfs(self._ops.statfs())

    def ioctl(self, call: Call) -> Reply:
        _, _, command, _, in_size, _ = abi.IOCTL_IN.unpack_from(call.head, call.at)
        if command in _FLAGS_OF:
            value = self._ops.get_flags(call.nodeid, extended=_FLAGS_OF[command])
        elif command in _SET_FLAGS_OF:
            self._ops.set_flags(call.nodeid, bytes(call.payload[:in_size]), extended=_SET_FLAGS_OF[command])
            value = b""
        else:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        return abi.IOCTL_OUT.pack(0, 0, 0, 0) + value

    # -- extended attributes ---------------------------------------------------------------------------

    def getxattr(self, call: Call) -> Reply:
        size, _ = abi.GETXATTR_IN.unpack_from(call.head, call.at)
        name = bytes(call.payload[:-1])
        if call.nodeid == vfs.ROOT and name == _INFO:
            return _sized(self._info(), size)
        if call.nodeid == vfs.ROOT and name in self._orders and call.uid in (0, os.geteuid()):
            return _sized(self._orders[name](call), size)
        return _sized(self._ops.getxattr(call.nodeid, name), size)

    def setxattr(self, call: Call) -> Reply:
        size, flags, more, _ = abi.SETXATTR_IN.unpack_from(call.head, call.at)
        self._wait_for(call, call.nodeid)
        name, value = bytes(call.payload).split(b"\0", 1)
        self._ops.setxattr(call.nodeid, name, value[:size], flags)
        if more & abi.SETXATTR_ACL_KILL_SGID and name == _ACL:
            mode = stat.S_IMODE(self._ops.getattr(call.nodeid).mode) & ~stat.S_ISGID
            self._ops.setattr(call.nodeid, SetAttr(mode=mode), Caller(call.uid, call.gid))
        return b""

    def listxattr(self, call: Call) -> Reply:
        size, _ = abi.GETXATTR_IN.unpack_from(call.head, call.at)
        found = self._ops.listxattr(call.nodeid)
        if call.uid != 0:
            found = [name for name in found if not name.startswith(b"trusted.")]
        return _sized(replies.names(found), size)

    def removexattr(self, call: Call) -> Reply:
        self._wait_for(call, call.nodeid)
        self._ops.removexattr(call.nodeid, bytes(call.payload[:-1]))
        return b""

    # -- files -----------------------------------------------------------------------------------------

    def open(self, call: Call) -> Reply:
        files = self._open_files()
        flags, _ = abi.OPEN_IN.unpack_from(call.head, call.at)
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self._wait_for(call, call.nodeid)
        self._ops.open(call.nodeid, flags & ~os.O_TRUNC, Caller(call.uid, call.gid))  # that comes as a SETATTR
        return files.open(call.nodeid, flags)

    def opened(self, call: Call, ino: Ino, flags: int) -> bytes:
        """Open what an earlier CREATE has made."""
        self._ops.open(ino, flags & ~os.O_TRUNC, Caller(call.uid, call.gid))
        return self._open_files().open(ino, flags)

    def create(self, call: Call) -> Reply:
        files = self._open_files()
        flags, mode, umask, _ = abi.CREATE_IN.unpack_from(call.head, call.at)
        attr = self._ops.create(call.nodeid, bytes(call.payload[:-1]), mode, Caller(call.uid, call.gid, umask))
        return replies.entry(attr) + files.open(attr.ino, flags)

    def tmpfile(self, call: Call) -> Reply:
        flags, mode, umask, _ = abi.CREATE_IN.unpack_from(call.head, call.at)
        attr = self._ops.tmpfile(call.nodeid, mode, Caller(call.uid, call.gid, umask))
        if self._files is None:
            return replies.entry(attr) + ByRequest().open(attr.ino, flags)
        return replies.entry(attr) + self.opened(call, attr.ino, flags)

    def release(self, call: Call) -> Reply:
        if self._files is not None:  # what tmpfile opened is released even so
            self._files.release(call.nodeid, abi.RELEASE_IN.unpack_from(call.head, call.at)[0])
            self._ops.release(call.nodeid)
        return b""

    def _open_files(self) -> Files:
        """ENOSYS: files are read and written by inode, so the kernel need not tell who opens one, and asks no
        more.
        """
        if self._files is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        return self._files

    def read(self, call: Call) -> Reply:
        _, offset, size, _, _, _, _ = abi.READ_IN.unpack_from(call.head, call.at)
        return self._ops.readinto(call.nodeid, offset, call.out[:size], wait=call.may_wait)

    def write(self, call: Call) -> Reply:
        _, offset, size, how, _, flags, _ = abi.WRITE_IN.unpack_from(call.head, call.at)
        sync = bool(flags & os.O_DSYNC)
        if sync:
            _waits(call)
        kill_suid = bool(how & abi.WRITE_KILL_SUIDGID)
        done = self._ops.write(
            call.nodeid, offset, call.payload[:size], kill_suid=kill_suid, sync=sync, wait=call.may_wait
        )
        self.unsynced += done
        return abi.WRITE_OUT.pack(done, 0)

    def fsync(self, call: Call) -> Reply:
        _waits(call)
        self.unsynced = 0
        _, how, _ = abi.FSYNC_IN.unpack_from(call.head, call.at)
        self._ops.fsync(call.nodeid, data_only=bool(how & abi.FSYNC_FDATASYNC))
        return b""

    fsyncdir = fsync

    def fallocate(self, call: Call) -> Reply:
        _waits(call)
        _, offset, length, mode, _ = abi.FALLOCATE_IN.unpack_from(call.head, call.at)
        self._ops.fallocate(Extent(call.nodeid, offset, length), mode, kill_suid=call.uid != 0)
        return b""

    def lseek(self, call: Call) -> Reply:
        _, offset, whence, _ = abi.LSEEK_IN.unpack_from(call.head, call.at)
        return abi.LSEEK_OUT.pack(self._ops.seek(call.nodeid, offset, whence))

    def copy_file_range(self, call: Call) -> Reply:
        _, start, target, _, offset, length, _ = abi.COPY_FILE_RANGE_IN.unpack_from(call.head, call.at)
        # What is copied is told in 32 bits.
        source = Extent(call.nodeid, start, min(length, 1 << 30))
        done = self._ops.copy_file_range(source, target, offset, kill_suid=call.uid != 0, wait=call.may_wait)
        self.unsynced += done
        return abi.WRITE_OUT.pack(done, 0)

    def syncfs(self, call: Call) -> Reply:
        _waits(call)
        self._ops.syncfs()
        return b""

    def destroy(self, call: Call) -> Reply:
        return b""

    # -- directories -----------------------------------------------------------------------------------

    def readdirplus(self, call: Call) -> Reply:
        _, after, size, _, _, _, _ = abi.READ_IN.unpack_from(call.head, call.at)
        return self.listings.with_attributes(call.nodeid, after, size)

    def readdir(self, call: Call) -> Reply:
        _, after, size, _, _, _, _ = abi.READ_IN.unpack_from(call.head, call.at)
        return self.listings.names(call.nodeid, after, size)


def _waits(call: Call) -> None:
    """Raises WouldWaitError if the call may not."""
    if not call.may_wait:
        raise WouldWaitError


def _time(valid: int, wanted: int, now: int, seconds: int, nanoseconds: int) -> int | None:
    if not valid & wanted:
        return None
    if valid & now:
        return vfs.NOW
    return (seconds - (1 << 64) if seconds >> 63 else seconds) * _G + nanoseconds


def _sized(value: bytes, size: int) -> bytes:
    """An xattr's value, or its size if that is what was asked for. ERANGE if there is no room for it."""
    if not size:
        return abi.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value
