"""The FUSE protocol, version 7.31 and later: its numbers and structures (include/uapi/linux/fuse.h).

A request is a header, then the structure of its opcode (:data:`ARGUMENTS`), then names, each ended by a zero byte,
or data. A reply is a header and a structure or data; an error is a header alone. All is in the byte order of the
machine. The names are those of the C header without ``fuse_`` and ``FUSE_``.
"""

from enum import IntEnum
from struct import Struct

MAJOR = 7
MINOR = 41  # what is spoken here; the kernel may speak less
OLDEST_MINOR = 31  # Linux 5.4

IN_HEADER = Struct("=IIQQIIIHH")  # len, opcode, unique, nodeid, uid, gid, pid, total_extlen (of 8 bytes), padding
OUT_HEADER = Struct("=IiQ")  # len, -errno (or, where unique is 0, a Notify), unique
MIN_READ_BUFFER = 8192
RESENT = 1 << 63  # UNIQUE_RESEND: a bit of unique, see Notify.RESEND


class Opcode(IntEnum):
    """enum fuse_opcode."""

    LOOKUP = 1
    FORGET = 2  # no reply
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36  # no reply
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41  # no reply
    BATCH_FORGET = 42  # no reply
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


INIT_IN = Struct("=IIIII44x")  # major, minor, max_readahead, flags, flags2
FORGET_IN = Struct("=Q")  # nlookup
BATCH_FORGET_IN = Struct("=II")  # count, dummy; then so many FORGET_ONE
FORGET_ONE = Struct("=QQ")  # nodeid, nlookup
GETATTR_IN = Struct("=IIQ")  # getattr_flags, dummy, fh
SETATTR_IN = Struct("=IIQQQQQQIIIIIIII")
"""valid (:class:`SetAttrValid`), padding, fh, size, lock_owner, atime, mtime, ctime, their nanoseconds, mode,
unused, uid, gid, unused"""
MKNOD_IN = Struct("=IIII")  # mode, rdev, umask, padding
MKDIR_IN = Struct("=II")  # mode, umask
RENAME_IN = Struct("=Q")  # newdir
RENAME2_IN = Struct("=QII")  # newdir, flags, padding
LINK_IN = Struct("=Q")  # oldnodeid
OPEN_IN = Struct("=II")  # flags, open_flags
READ_IN = Struct("=QQIIQII")  # fh, offset, size, read_flags, lock_owner, flags, padding
WRITE_IN = Struct("=QQIIQII")  # fh, offset, size, write_flags, lock_owner, flags, padding
RELEASE_IN = Struct("=QIIQ")  # fh, flags, release_flags, lock_owner
FSYNC_IN = Struct("=QII")  # fh, fsync_flags, padding
SETXATTR_IN = Struct("=IIII")  # size, flags, setxattr_flags, padding: with Init.SETXATTR_EXT
GETXATTR_IN = Struct("=II")  # size, padding
FLUSH_IN = Struct("=QIIQ")  # fh, unused, padding, lock_owner
ACCESS_IN = Struct("=II")  # mask, padding
CREATE_IN = Struct("=IIII")  # flags, mode, umask, open_flags
INTERRUPT_IN = Struct("=Q")  # unique
IOCTL_IN = Struct("=QIIQII")  # fh, flags, cmd, arg, in_size, out_size
FALLOCATE_IN = Struct("=QQQII")  # fh, offset, length, mode, padding
LSEEK_IN = Struct("=QQII")  # fh, offset, whence, padding
COPY_FILE_RANGE_IN = Struct("=QQQQQQQ")  # fh_in, off_in, nodeid_out, fh_out, off_out, len, flags
SYNCFS_IN = Struct("=Q")  # padding
STATX_IN = Struct("=IIQII")  # getattr_flags, reserved, fh, sx_flags, sx_mask

ARGUMENTS: dict[int, int] = {
    Opcode.INIT: INIT_IN.size,
    Opcode.FORGET: FORGET_IN.size,
    Opcode.BATCH_FORGET: BATCH_FORGET_IN.size,
    Opcode.GETATTR: GETATTR_IN.size,
    Opcode.SETATTR: SETATTR_IN.size,
    Opcode.MKNOD: MKNOD_IN.size,
    Opcode.MKDIR: MKDIR_IN.size,
    Opcode.RENAME: RENAME_IN.size,
    Opcode.RENAME2: RENAME2_IN.size,
    Opcode.LINK: LINK_IN.size,
    Opcode.OPEN: OPEN_IN.size,
    Opcode.OPENDIR: OPEN_IN.size,
    Opcode.READ: READ_IN.size,
    Opcode.READDIR: READ_IN.size,
    Opcode.READDIRPLUS: READ_IN.size,
    Opcode.WRITE: WRITE_IN.size,
    Opcode.RELEASE: RELEASE_IN.size,
    Opcode.RELEASEDIR: RELEASE_IN.size,
    Opcode.FSYNC: FSYNC_IN.size,
    Opcode.FSYNCDIR: FSYNC_IN.size,
    Opcode.SETXATTR: SETXATTR_IN.size,
    Opcode.GETXATTR: GETXATTR_IN.size,
    Opcode.LISTXATTR: GETXATTR_IN.size,
    Opcode.FLUSH: FLUSH_IN.size,
    Opcode.ACCESS: ACCESS_IN.size,
    Opcode.CREATE: CREATE_IN.size,
    Opcode.TMPFILE: CREATE_IN.size,
    Opcode.INTERRUPT: INTERRUPT_IN.size,
    Opcode.IOCTL: IOCTL_IN.size,
    Opcode.FALLOCATE: FALLOCATE_IN.size,
    Opcode.LSEEK: LSEEK_IN.size,
    Opcode.COPY_FILE_RANGE: COPY_FILE_RANGE_IN.size,
    Opcode.SYNCFS: SYNCFS_IN.size,
    Opcode.STATX: STATX_IN.size,
}
"""How many bytes of arguments lie between the header and the names or data, by opcode; 0 for all others."""

INIT_OUT = Struct("=IIIIHHIIHHIIH22x")
"""major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran (ns), max_pages,
map_alignment, flags2, max_stack_depth, request_timeout"""
_ATTR = "QQQQQQIIIIIIIIII"
"""ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags"""
ATTR_OUT = Struct("=QII" + _ATTR)  # attr_valid (s), attr_valid_nsec, dummy, attr
ENTRY_OUT = Struct("=QQQQII" + _ATTR)
"""nodeid (0: there is no such name), generation, entry_valid (s), attr_valid (s), their nanoseconds, attr"""
OPEN_OUT = Struct("=QIi")  # fh, open_flags (:class:`Fopen`), backing_id
WRITE_OUT = Struct("=II")  # size, padding
STATFS_OUT = Struct("=QQQQQIIII24x")  # blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding
GETXATTR_OUT = Struct("=II")  # size, padding
IOCTL_OUT = Struct("=iIII")  # result, flags, in_iovs, out_iovs
LSEEK_OUT = Struct("=Q")  # offset
DIRENT = Struct("=QQII")  # ino, off, namelen, type; then the name, padded to 8 bytes
DIRENTPLUS = Struct("=QQQQII" + _ATTR + "QQII")  # entry_out, dirent
STATX_OUT = Struct("=QIIQQ" + "IIQIIIHHQQQQ" + "qIi" * 4 + "IIII" + "112x")
"""attr_valid, attr_valid_nsec, flags, spare; then of struct statx: mask, blksize, attributes, nlink, uid, gid,
mode, pad, ino, size, blocks, attributes_mask; atime, btime, ctime, mtime (s, ns, pad); rdev, dev (major, minor)"""
STATX_BASIC_AND_BTIME = 0xFFF


class Init:
    """Flags of INIT; from bit 32 on they stand in ``flags2``."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6  # the umask is ours to apply
    DO_READDIRPLUS = 1 << 13
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17  # ENOSYS to OPEN: never ask again
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25  # pages go when we say so, not when a time or size changes
    HANDLE_KILLPRIV_V2 = 1 << 28  # setuid and capabilities are ours to clear, when we are told to
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30  # there is a flags2
    HAS_EXPIRE_ONLY = 1 << 35
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    HAS_RESEND = 1 << 39
    OVER_IO_URING = 1 << 41


class SetAttrValid:
    """FATTR_*: which fields of SETATTR_IN are to be set."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    CTIME = 1 << 10
    KILL_SUIDGID = 1 << 11


class Fopen:
    """FOPEN_*: what OPEN answers."""

    KEEP_CACHE = 1 << 1
    CACHE_DIR = 1 << 3
    NOFLUSH = 1 << 5
    PASSTHROUGH = 1 << 7


WRITE_KILL_SUIDGID = 1 << 2
OPEN_KILL_SUIDGID = 1 << 0
FSYNC_FDATASYNC = 1 << 0
SETXATTR_ACL_KILL_SGID = 1 << 0
IOCTL_32BIT, IOCTL_COMPAT = 1 << 3, 1 << 0


class Notify(IntEnum):
    """What is sent without being asked (enum fuse_notify_code)."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    RESEND = 7  # send again what was read and not answered


INVAL_INODE_OUT = Struct("=Qqq")  # nodeid, offset (negative: attributes alone), length (0: to the end)
INVAL_ENTRY_OUT = Struct("=QII")  # parent, namelen, flags; then the name and a zero byte

DEV_IOC_BACKING_OPEN = 0x4010E501  # struct fuse_backing_map: fd, flags, padding; returns an id
DEV_IOC_BACKING_CLOSE = 0x4004E502  # the id
BACKING_MAP = Struct("=iIQ")
