"""Extended attributes: those of the backing object, without overlay's own (fs/overlayfs/xattrs.c).

A name in overlay's namespace that a user sets is stored escaped (``trusted.overlay.overlay.x``), so that
unions nest: the inner one's marks are plain data to the outer one.
"""

import errno
import os

from .copy_up import copy_up
from .inode import Inode
from .marks import Dialect
from .ownership import OVERRIDES
from .super import Superblock

_ACL = "system.posix_acl_"


def get(sb: Superblock, inode: Inode, name: str) -> bytes:
    """Raises ENODATA for what is not there, and EOPNOTSUPP where the filesystem has no such xattrs.

    But no ACL is ENODATA, wherever: the kernel asks for it at each check of permissions (fs/fuse/acl.c).
    """
    stored = _stored(sb, name, reading=True)
    try:
        with sb.lock:
            return inode.real.getxattr(stored)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP and name.startswith(_ACL):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA)) from None
        raise


def _stored(sb: Superblock, name: str, *, reading: bool = False) -> str:
    """The name on disk. Raises EINVAL for overlay's bare prefix, which names nothing."""
    if name == sb.marks.prefix:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
    if sb.params.xattr_permissions and name in OVERRIDES:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), name)
    if sb.params.noacl and name.startswith(_ACL):
        number = errno.ENODATA if reading else errno.EOPNOTSUPP
        raise OSError(number, os.strerror(number), name)
    if sb.params.dialects and not name.startswith(sb.marks.prefix) and Dialect.is_private(name):
        number = errno.ENODATA if reading else errno.EPERM
        raise OSError(number, os.strerror(number), name)
    return sb.marks.escape(name)


def names(sb: Superblock, inode: Inode) -> list[str]:
    """The names that a user may see (ovl_listxattr)."""
    with sb.lock:
        mine = OVERRIDES if sb.params.xattr_permissions else ()
        stored = [name for name in inode.real.listxattr() if not sb.is_private(name) and name not in mine]
        if sb.params.noacl:
            stored = [name for name in stored if not name.startswith(_ACL)]
        return [sb.marks.unescape(name) for name in stored]


def set_(sb: Superblock, inode: Inode, name: str, value: bytes, flags: int) -> None:
    """Set, after a copy-up; what XATTR_CREATE and XATTR_REPLACE refuse is found out before."""
    stored = _stored(sb, name)
    if flags:
        with sb.lock:
            exists = inode.real.find_xattr(stored) is not None
        if exists and flags & os.XATTR_CREATE:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        if not exists and flags & os.XATTR_REPLACE:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
    copy_up(sb, inode, data=False)
    with sb.lock:
        inode.real.setxattr(stored, value, flags)


def remove(sb: Superblock, inode: Inode, name: str) -> None:
    """Remove; nothing is copied up for one that is not there (ovl_xattr_set).

    What is copied up already is its filesystem's to answer for: that no ACL is there is no error, for one.
    """
    stored = _stored(sb, name)
    if inode.upper is None:
        with sb.lock:
            inode.real.getxattr(stored)
    copy_up(sb, inode, data=False)
    with sb.lock:
        inode.real.removexattr(stored)
