"""Writing a layer's tar: what :mod:`.unpack` reads, the other way round.

The same members give the same bytes: names are sorted by who calls, owners have numbers only, times are whole
seconds, and PAX headers (for long names, large numbers, xattrs) come only where they are needed. Source: OCI
image-spec layer.md, tar(5).
"""

import hashlib
import stat
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

WHITEOUT = b".wh."  # OCI image-spec layer.md, "Whiteouts"
OPAQUE = b".wh..wh..opq"
_XATTR = "SCHILY.xattr."


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedMember:
    """One member of a layer."""

    path: bytes  # from the root, without a slash before it
    mode: int  # type and permissions; those of a whiteout are a regular file's
    uid: int = 0
    gid: int = 0
    mtime: int = 0  # seconds
    size: int = 0
    link: bytes = b""  # of a symlink its target, of a further name the path of the first
    is_hard_link: bool = False
    device: tuple[int, int] = (0, 0)  # major, minor
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    open: Callable[[], BinaryIO] | None = None  # the data of a regular file

    @classmethod
    def whiteout(cls, directory: bytes, name: bytes) -> "PackedMember":
        """That hides a name of the layers below; with ``OPAQUE`` in place of a mark, all names."""
        mark = name if name == OPAQUE else WHITEOUT + name
        return cls(path=directory + b"/" + mark if directory else mark, mode=stat.S_IFREG)


_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


class Writer(Protocol):
    """What can be written to."""

    def write(self, data: bytes, /) -> int:
        """Write all of it; returns how many bytes that is."""


def write_layer(members: Iterable[PackedMember], out: Writer) -> tuple[int, str]:
    """Write a tar; returns how many members it has, and its diff id. Raises OSError, and what reading raises.

    Members of a type that tar does not have (sockets) must have been left out.
    """
    count = 0
    hashed = _Hashed(out)
    # It is only written to.
    with tarfile.open(  # type: ignore[call-overload]
        fileobj=hashed, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8"
    ) as tar:
        for member in members:
            info = _header(member)
            if member.open is None or not info.isreg():
                tar.addfile(info)
            else:
                with member.open() as data:
                    tar.addfile(info, data)
            count += 1
    return count, f"sha256:{hashed.digest.hexdigest()}"


class _Hashed:
    """A file that is only written to, and the digest of what was."""

    def __init__(self, out: Writer) -> None:
        self._out = out
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._out.write(data)


def _header(member: PackedMember) -> tarfile.TarInfo:
    info = tarfile.TarInfo(_text(member.path))
    info.type = tarfile.LNKTYPE if member.is_hard_link else _TYPES[stat.S_IFMT(member.mode)]
    info.mode = stat.S_IMODE(member.mode)
    info.uid, info.gid, info.mtime = member.uid, member.gid, max(member.mtime, 0)
    info.linkname = _text(member.link)
    info.size = member.size if info.isreg() else 0
    info.devmajor, info.devminor = member.device
    info.pax_headers = {_XATTR + _text(name): _text(value) for name, value in sorted(member.xattrs.items())}
    return info


def _text(value: bytes) -> str:
    """Bytes that may be anything, as tarfile takes them and gives them back."""
    return value.decode("utf-8", "surrogateescape")
