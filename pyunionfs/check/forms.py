"""Whether the value of a mark is well-formed, and if not, what is wrong with it: a ValueError with a sentence.

The core only has to ignore or refuse what is malformed; a check has to say why.
"""

import struct
from dataclasses import dataclass

_HANDLE = struct.Struct("=BBBBB16s")  # struct ovl_fb, fs/overlayfs/overlayfs.h
_HANDLE_MAGIC = 0xFB
_FLAGS = 0b110  # OVL_FH_FLAG_ANY_ENDIAN and OVL_FH_FLAG_PATH_UPPER; big-endian handles are unknown here
_METACOPY = struct.Struct("=BBBB")  # struct ovl_metacopy: version, length, flags, digest algorithm
_NLINK_MAX = 12  # bytes of the buffer that the kernel reads it into


@dataclass(frozen=True, slots=True)
class Handle:
    """A file handle, as in the xattrs ``origin`` and ``upper`` and in the names of index entries."""

    kind: int
    fid: bytes
    uuid: bytes

    @classmethod
    def decode(cls, value: bytes) -> "Handle":
        """See ovl_check_fb_len."""
        if len(value) < _HANDLE.size:
            raise ValueError(f"{len(value)} bytes are too few for a file handle")
        version, magic, size, flags, kind, uuid = _HANDLE.unpack_from(value)
        if magic != _HANDLE_MAGIC:
            raise ValueError("it does not begin as a file handle does")
        if version or flags & ~_FLAGS:
            raise ValueError(f"a file handle of unknown version {version} or flags {flags:#x}")
        if size != len(value):
            raise ValueError(f"a file handle that should have {size} bytes has {len(value)}")
        return cls(kind, value[_HANDLE.size :], uuid)

    @classmethod
    def of_index(cls, name: bytes) -> "Handle":
        """The handle that an index entry is named after (ovl_verify_index)."""
        try:
            value = bytes.fromhex(name.decode("ascii"))
        except ValueError:
            raise ValueError("its name is no hexadecimal number") from None
        if value.hex().encode() != name:
            raise ValueError("its name is not written as index entries are: in lower case, without spaces")
        return cls.decode(value)


def redirect(value: bytes) -> tuple[bool, list[bytes]]:
    """Whether a redirect is absolute, and its components (ovl_get_redirect_xattr).

    ``.`` and ``..`` are names that no look-up of the kernel takes (lookup_noperm_common).
    """
    absolute = value.startswith(b"/")
    names = value[1:].split(b"/") if absolute else [value]
    if not all(names):
        raise ValueError("an empty name" if value else "it is empty")
    if any(b"/" in name for name in names):
        raise ValueError("a relative path of several names")
    if any(name in (b".", b"..") or b"\0" in name for name in names):
        raise ValueError("a name that no object can have")
    return absolute, names


def check_metacopy(value: bytes) -> None:
    """See ovl_check_metacopy_xattr."""
    if not value:
        return
    if len(value) < _METACOPY.size:
        raise ValueError(f"{len(value)} bytes are too few")
    version, length, _, _ = _METACOPY.unpack_from(value)
    if version:
        raise ValueError(f"unknown version {version}")
    if length != len(value):
        raise ValueError(f"it should have {length} bytes and has {len(value)}")


def links(value: bytes | None, *, upper: int, lower: int) -> int:
    """How many names an indexed object has in the union, by its mark ``nlink`` (ovl_get_nlink)."""
    digits = value[2:] if value else b""
    if (
        not value
        or value[:1] not in b"UL"
        or value[1:2] not in b"+-"
        or not digits.isdigit()
        or len(value) > _NLINK_MAX
    ):
        raise ValueError("its mark nlink cannot be read: a mount with index=on would remove it")
    return (upper if value[:1] == b"U" else lower) + int(value[1:])
