"""The fs-verity digest of a metacopy's data (``verity=on|require``): so that nobody can exchange the data below.

Kernel: ovl_validate_verity() and ovl_get_verity_digest() in fs/overlayfs/util.c; overlayfs.rst, "fs-verity
support". Where a filesystem has no fs-verity, data has no digest.
"""

import errno
from typing import TYPE_CHECKING

from .. import linux
from .inode import Inode
from .marks import Metacopy

if TYPE_CHECKING:
    from .super import Superblock


def digest_of(data: int) -> Metacopy:
    """The mark for a metacopy whose data is the open file ``data``."""
    measured = linux.measure_verity(data)
    return Metacopy(*measured) if measured is not None else Metacopy()


def check(sb: "Superblock", inode: Inode, data: int) -> None:
    """Raises OSError(EIO) for data other than the metacopy was made for, and for a metacopy without a digest
    where one is required."""
    expected = Metacopy.decode(inode.real.find_xattr(sb.marks.metacopy) or b"")
    if not expected.algorithm:
        if sb.params.verity == "require":
            raise OSError(errno.EIO, "a metacopy without digest, and verity=require", inode.real.path())
    elif linux.measure_verity(data) != (expected.algorithm, expected.digest):
        raise OSError(errno.EIO, "the data of a metacopy does not have its digest", inode.real.path())
