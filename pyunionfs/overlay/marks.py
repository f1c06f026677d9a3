"""The on-disk format: how overlayfs writes down what is not there. Known here and nowhere else.

==========  =====================================  ==========================================================
mark        where                                  form
==========  =====================================  ==========================================================
whiteout    in place of a name that is deleted     character device 0:0; or, in a directory marked
                                                   ``opaque=x``, an empty regular file with xattr ``whiteout``
opaque      a directory that hides those below     xattr ``opaque=y``
origin      an object that was copied up           xattr ``origin``: file handle of the lower object
impure      a directory with such objects          xattr ``impure=y``
redirect    a directory that was renamed           xattr ``redirect``: its path in the layers below
metacopy    a file whose data is still below       xattr ``metacopy``; a hole in place of the data
==========  =====================================  ==========================================================

The xattrs live under ``trusted.overlay.`` or, for mounts by ordinary users and with ``userxattr``, under
``user.overlay.``. Sources: overlayfs.rst ("whiteouts and opaque directories"), fs/overlayfs/overlayfs.h.
The tar form of the same marks (``.wh.x``) belongs to ``image/``, not here.
"""

import os
import stat
import struct
from dataclasses import dataclass

WHITEOUT_RDEV = 0
OPAQUE_YES = b"y"
OPAQUE_XATTR_WHITEOUTS = b"x"  # not opaque, but may hold xattr whiteouts

_FB_MAGIC = 0xFB  # struct ovl_fb, fs/overlayfs/overlayfs.h
_FB_HEADER = struct.Struct("=BBBBB16s")


def is_whiteout_device(mode: int, rdev: int) -> bool:
    """Whether an object is a whiteout by its type alone (ovl_is_whiteout)."""
    return stat.S_ISCHR(mode) and rdev == WHITEOUT_RDEV


def may_be_xattr_whiteout(mode: int, size: int) -> bool:
    """Whether it is worth asking for the xattr ``whiteout``, in a directory marked ``opaque=x``."""
    return stat.S_ISREG(mode) and size == 0


def may_be_metacopy(st: os.stat_result) -> bool:
    """Whether it is worth asking for the xattr ``metacopy``: no data, only perhaps a block of xattrs."""
    return stat.S_ISREG(st.st_mode) and st.st_size > 0 and st.st_blocks * 512 <= st.st_blksize


def make_whiteout(dir_fd: int, name: bytes) -> None:
    """Create a whiteout; the kernel lets ordinary users create exactly this device (since 5.8)."""
    os.mknod(name, stat.S_IFCHR, WHITEOUT_RDEV, dir_fd=dir_fd)


class Namespace:
    """The names of the marks' xattrs under one prefix: ``trusted.overlay.`` or ``user.overlay.``."""

    __slots__ = ("impure", "metacopy", "opaque", "origin", "prefix", "redirect", "whiteout")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.impure = prefix + "impure"
        self.metacopy = prefix + "metacopy"
        self.opaque = prefix + "opaque"
        self.origin = prefix + "origin"
        self.redirect = prefix + "redirect"
        self.whiteout = prefix + "whiteout"

    def is_private(self, name: str) -> bool:
        """Whether this xattr is ours, not the user's: hidden, and never copied up (ovl_is_own_xattr)."""
        return name.startswith(self.prefix) and not name.startswith(self.prefix + "overlay.")

    def escape(self, name: str) -> str:
        """On-disk name of an xattr that a user sets through the union (ovl_xattr_escape_name)."""
        return self.prefix + "overlay." + name[len(self.prefix) :] if name.startswith(self.prefix) else name

    def unescape(self, name: str) -> str:
        """Inverse of :meth:`escape` for a listing."""
        escaped = self.prefix + "overlay."
        return self.prefix + name[len(escaped) :] if name.startswith(escaped) else name


TRUSTED = Namespace("trusted.overlay.")
USER = Namespace("user.overlay.")


@dataclass(frozen=True, slots=True)
class Origin:
    """The xattr ``origin``: which lower object a copy was made of (struct ovl_fb)."""

    kind: int  # exportfs file handle type
    handle: bytes
    uuid: bytes  # of the lower filesystem

    def encode(self) -> bytes:
        """As the kernel writes it (ovl_encode_real_fh), little-endian machines only."""
        size = _FB_HEADER.size + len(self.handle)
        return _FB_HEADER.pack(0, _FB_MAGIC, size, 0, self.kind, self.uuid) + self.handle

    def plain_ino(self) -> int:
        """The inode number in a handle of the common form FILEID_INO32_GEN, 0 for any other form."""
        return int.from_bytes(self.handle[:4], "little") if self.kind == 1 and len(self.handle) >= 8 else 0

    @classmethod
    def decode(cls, value: bytes) -> "Origin | None":
        """None for what the kernel too ignores: unknown origin, other version or magic (ovl_check_fb_len)."""
        if len(value) < _FB_HEADER.size:
            return None
        version, magic, size, flags, kind, uuid = _FB_HEADER.unpack_from(value)
        if version != 0 or magic != _FB_MAGIC or size != len(value) or flags:
            return None
        return cls(kind, value[_FB_HEADER.size :], uuid)
