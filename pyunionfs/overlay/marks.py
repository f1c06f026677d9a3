"""The on-disk format: how overlayfs writes down what is not there. Known here and nowhere else.

==========  =====================================  ==========================================================
mark        where                                  form
==========  =====================================  ==========================================================
whiteout    in place of a name that is deleted     character device 0:0; or, in a directory marked
                                                   ``opaque=x``, an empty regular file with xattr ``whiteout``
opaque      a directory that hides those below     xattr ``opaque=y``
origin      an object that was copied up           xattr ``origin``: file handle of the lower object
impure      a directory with such objects          xattr ``impure=y``
redirect    a directory that was renamed, or a     xattr ``redirect``: its name or ``/path`` in the layers
            metacopy that was renamed or linked    below
metacopy    a file whose data is still below       xattr ``metacopy``, with the fs-verity digest of the data
                                                   if it has one; a hole in place of the data
nlink       an indexed file (see ``index.py``)     xattr ``nlink``: names in the union, as ``U+1`` more than the
                                                   upper object has, or ``L-1`` less than the lower one has
upper       the index directory                    xattr ``upper``: file handle of its upper directory
uuid        the root of an upper directory         xattr ``uuid``: 16 random bytes that name the union
==========  =====================================  ==========================================================

The xattrs live under ``trusted.overlay.`` or, for mounts by ordinary users and with ``userxattr``, under
``user.overlay.``. Sources: overlayfs.rst ("whiteouts and opaque directories"), fs/overlayfs/overlayfs.h.
The tar form of the same marks (``.wh.x``) belongs to ``image/``, not here.
"""

import errno
import os
import re
import stat
import struct
from dataclasses import dataclass

WHITEOUT_RDEV = 0
OPAQUE_YES = b"y"
OPAQUE_XATTR_WHITEOUTS = b"x"  # not opaque, but may hold xattr whiteouts

_FB_MAGIC = 0xFB  # struct ovl_fb, fs/overlayfs/overlayfs.h
_FB_HEADER = struct.Struct("=BBBBB16s")
_FB_UPPER = 1 << 2  # OVL_FH_FLAG_PATH_UPPER
_FB_ANY_ENDIAN = 1 << 1  # OVL_FH_FLAG_ANY_ENDIAN, which nobody writes
_NLINK_MAX = 12  # bytes of the buffer that the kernel reads it into
_METACOPY_HEADER = struct.Struct("=BBBB")  # struct ovl_metacopy: version, length, flags, digest algorithm


def is_whiteout_device(mode: int, rdev: int) -> bool:
    """Whether an object is a whiteout by its type alone (ovl_is_whiteout)."""
    return stat.S_ISCHR(mode) and rdev == WHITEOUT_RDEV


def may_be_xattr_whiteout(mode: int, size: int) -> bool:
    """Whether it is worth asking for the xattr ``whiteout``, in a directory marked ``opaque=x``."""
    return stat.S_ISREG(mode) and size == 0


def make_whiteout(dir_fd: int, name: bytes) -> None:
    """Create a whiteout; the kernel lets ordinary users create exactly this device (since 5.8)."""
    os.mknod(name, stat.S_IFCHR, WHITEOUT_RDEV, dir_fd=dir_fd)


class Namespace:
    """The names of the marks' xattrs under one prefix: ``trusted.overlay.`` or ``user.overlay.``."""

    __slots__ = (
        "impure",
        "metacopy",
        "nlink",
        "opaque",
        "origin",
        "prefix",
        "redirect",
        "upper",
        "uuid",
        "whiteout",
    )

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.impure = prefix + "impure"
        self.metacopy = prefix + "metacopy"
        self.nlink = prefix + "nlink"
        self.opaque = prefix + "opaque"
        self.origin = prefix + "origin"
        self.redirect = prefix + "redirect"
        self.upper = prefix + "upper"
        self.uuid = prefix + "uuid"
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
    """The xattrs ``origin`` and ``upper``: a file handle that names an object (struct ovl_fb)."""

    kind: int  # exportfs file handle type
    handle: bytes
    uuid: bytes  # of the object's filesystem
    upper: bool = False  # whether the object is in the upper layer

    def encode(self) -> bytes:
        """As the kernel writes it (ovl_encode_real_fh), little-endian machines only."""
        size = _FB_HEADER.size + len(self.handle)
        flags = _FB_UPPER if self.upper else 0
        return _FB_HEADER.pack(0, _FB_MAGIC, size, flags, self.kind, self.uuid) + self.handle

    def plain_ino(self) -> int:
        """The inode number in a handle of the common form FILEID_INO32_GEN, 0 for any other form."""
        return int.from_bytes(self.handle[:4], "little") if self.kind == 1 and len(self.handle) >= 8 else 0

    @classmethod
    def parse(cls, value: bytes) -> "Origin":
        """Raises ValueError with what is wrong (ovl_check_fb_len)."""
        if len(value) < _FB_HEADER.size:
            raise ValueError(f"{len(value)} bytes are too few for a file handle")
        version, magic, size, flags, kind, uuid = _FB_HEADER.unpack_from(value)
        if magic != _FB_MAGIC:
            raise ValueError("it does not begin as a file handle does")
        if version or flags & ~(_FB_UPPER | _FB_ANY_ENDIAN):
            raise ValueError(f"a file handle of unknown version {version} or flags {flags:#x}")
        if size != len(value):
            raise ValueError(f"a file handle that should have {size} bytes has {len(value)}")
        return cls(kind, value[_FB_HEADER.size :], uuid, bool(flags & _FB_UPPER))

    @classmethod
    def decode(cls, value: bytes) -> "Origin | None":
        """None for what the kernel too ignores: unknown origin, other version or magic."""
        try:
            origin = cls.parse(value)
        except ValueError:
            return None
        return origin if origin.encode() == value else None

    def index_name(self) -> bytes:
        """What the index entry of a copy of this object is called (ovl_get_index_name)."""
        return self.encode().hex().encode()

    @classmethod
    def of_index_name(cls, name: bytes) -> "Origin":
        """Inverse of :meth:`index_name`. Raises ValueError with what is wrong (ovl_verify_index)."""
        try:
            value = bytes.fromhex(name.decode("ascii"))
        except ValueError:
            raise ValueError("its name is no hexadecimal number") from None
        if value.hex().encode() != name:
            raise ValueError("its name is not written as index entries are: in lower case, without spaces")
        return cls.parse(value)


@dataclass(frozen=True, slots=True)
class Metacopy:
    """The xattr ``metacopy``: the fs-verity digest that the data below must have, if any (struct ovl_metacopy)."""

    algorithm: int = 0  # FS_VERITY_HASH_ALG_*; 0: no digest
    digest: bytes = b""

    def encode(self) -> bytes:
        """Empty where there is no digest, as in the kernel (ovl_set_metacopy_xattr)."""
        if not self.algorithm:
            return b""
        return _METACOPY_HEADER.pack(0, _METACOPY_HEADER.size + len(self.digest), 0, self.algorithm) + self.digest

    @staticmethod
    def check(value: bytes) -> None:
        """Raises OSError(EIO) for what cannot be one; what it says is read only where it matters."""
        if 0 < len(value) < _METACOPY_HEADER.size:
            raise OSError(errno.EIO, "malformed metacopy mark")

    @classmethod
    def parse(cls, value: bytes) -> "Metacopy":
        """Raises ValueError with what is wrong (ovl_check_metacopy_xattr)."""
        if not value:
            return cls()
        if len(value) < _METACOPY_HEADER.size:
            raise ValueError(f"{len(value)} bytes are too few")
        version, length, _flags, algorithm = _METACOPY_HEADER.unpack_from(value)
        if version:
            raise ValueError(f"unknown version {version}")
        if length != len(value):
            raise ValueError(f"it should have {length} bytes and has {len(value)}")
        return cls(algorithm, value[_METACOPY_HEADER.size :])

    @classmethod
    def decode(cls, value: bytes) -> "Metacopy":
        """Raises OSError(EIO) for a form that is not understood."""
        try:
            return cls.parse(value)
        except ValueError as error:
            raise OSError(errno.EIO, f"malformed metacopy mark: {error}") from None


class Dialect:
    """Marks of others, which a union with ``dialects=on`` reads in its layers beside its own, and never writes.

    ==========  ============================================================================================
    whiteout    a name ``.wh.X`` (AUFS, and OCI layers as podman and dockerd unpack them for fuse-overlayfs);
                it acts on the layers below only
    opaque      a name ``.wh..wh..opq`` (AUFS) or ``.wh..opq`` (fuse-overlayfs) in a directory; ``y`` in the
                xattr ``opaque`` of either namespace or ``user.fuseoverlayfs.opaque``
    own names   other names that begin with ``.wh..wh.`` (AUFS: plink, its pseudo-links)
    ==========  ============================================================================================

    All of them are hidden, as are the xattrs under ``user.fuseoverlayfs.``.
    """

    PREFIX = b".wh."
    OWN = b".wh..wh."
    OPAQUE_NAMES = (b".wh..wh..opq", b".wh..opq")
    OPAQUE_XATTRS = (TRUSTED.opaque, USER.opaque, "user.fuseoverlayfs.opaque")
    _HIDDEN_XATTRS = (TRUSTED.prefix, USER.prefix, "user.fuseoverlayfs.")

    @classmethod
    def is_mark(cls, name: bytes) -> bool:
        """Whether a name is no object's."""
        return name.startswith(cls.PREFIX)

    @classmethod
    def whiteout(cls, name: bytes) -> bytes:
        """The mark that hides a name."""
        return cls.PREFIX + name

    @classmethod
    def hidden_by(cls, mark: bytes) -> bytes:
        """The name that a mark hides; b"" if it is a mark of another kind, or hides nothing that can be."""
        name = mark.removeprefix(cls.PREFIX)
        return b"" if mark in cls.OPAQUE_NAMES or mark.startswith(cls.OWN) or name in (b".", b"..") else name

    @classmethod
    def is_private(cls, xattr: str) -> bool:
        """Whether an xattr is a mark, of whichever union."""
        return xattr.startswith(cls._HIDDEN_XATTRS)


def redirect_names(value: bytes) -> list[bytes]:
    """The names that a redirect consists of; it is absolute if it begins with a slash.

    Raises ValueError with what is wrong (ovl_get_redirect_xattr).
    """
    names = value[1:].split(b"/") if value.startswith(b"/") else [value]
    if not all(names):
        raise ValueError("an empty name" if value else "it is empty")
    if any(b"/" in name for name in names):
        raise ValueError("a relative path of several names")
    return names


def check_redirect(value: bytes) -> bytes:
    """A redirect that is well-formed: one name, or an absolute path without empty components.

    Raises OSError(EINVAL) for anything else (ovl_get_redirect_xattr), and EACCES for a component that is no name:
    ``..`` would lead out of the layer (lookup_noperm_common).
    """
    value = value.split(b"\0", 1)[0]  # a C string
    try:
        names = redirect_names(value)
    except ValueError as error:
        raise OSError(errno.EINVAL, f"malformed redirect mark: {error}") from None
    if b"." in names or b".." in names:
        raise OSError(errno.EACCES, "a redirect that would leave its place")
    return value


def encode_nlink(names: int, *, upper: int | None = None, lower: int | None = None) -> bytes:
    """The xattr ``nlink`` of an indexed object with that many names in the union, relative to the link count of
    its upper or its lower object: whichever the next step does not change (ovl_set_nlink_common)."""
    return b"U%+d" % (names - upper) if upper is not None else b"L%+d" % (names - (lower or 0))


def parse_nlink(value: bytes | None, *, upper: int, lower: int) -> int:
    """How many names an indexed object has, from the link counts of both objects (ovl_get_nlink).

    Raises ValueError if the mark does not say.
    """
    if value is None or len(value) > _NLINK_MAX or not re.fullmatch(rb"[UL][+-][0-9]+", value):
        raise ValueError("its mark nlink cannot be read: a mount with index=on would remove it")
    return (upper if value[:1] == b"U" else lower) + int(value[1:])


def decode_nlink(value: bytes | None, *, upper: int, lower: int) -> int | None:
    """How many names the union shows; None if the mark does not say, or says that there are none."""
    try:
        names = parse_nlink(value, upper=upper, lower=lower)
    except ValueError:
        return None
    return names if names > 0 else None
