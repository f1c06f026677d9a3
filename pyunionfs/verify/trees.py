"""Building directory trees from a small language of dicts, and comparing trees by snapshots.

``build`` writes plain objects and overlay's marks into a directory; ``snapshot`` reads everything that a user
(or, with ``upper=True``, another overlay implementation) can see of one. Neither knows how a tree is mounted.
"""

import hashlib
import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Objects are given this time unless told otherwise, so that a snapshot tells "kept" from "changed just now".
OLD_NS = 1_000_000_000_123_456_789
RECENT_NS = 1_600_000_000 * 10**9

OVERLAY_PREFIXES = (b"trusted.overlay.", b"user.overlay.")
# Values that differ between two correct uppers: only their presence can be compared.
_OPAQUE_VALUES = {b"overlay.origin", b"overlay.nlink", b"overlay.upper"}
# What a mount may write about itself, not about the tree.
_MOUNT_OWN = {b"overlay.uuid"}


@dataclass(frozen=True)
class File:
    """A regular file; ``holes`` are (offset, length) pairs that are punched out of ``data``."""

    data: bytes | str = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = OLD_NS
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    holes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Dir:
    """A directory with attributes of its own (a plain dict is one with the usual ones)."""

    entries: "Mapping[str | bytes, Node]" = field(default_factory=dict)
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime_ns: int = OLD_NS
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Opaque(Dir):
    """A directory marked opaque; ``prefix`` says for which kind of mount."""

    prefix: str = "trusted.overlay."


@dataclass(frozen=True)
class Symlink:
    target: str | bytes
    mtime_ns: int = OLD_NS


@dataclass(frozen=True)
class HardLink:
    """Another name of an object built earlier; ``to`` is relative to the root of the ``build`` call."""

    to: str | bytes


@dataclass(frozen=True)
class Fifo:
    mode: int = 0o644
    mtime_ns: int = OLD_NS


@dataclass(frozen=True)
class Socket:
    mode: int = 0o644
    mtime_ns: int = OLD_NS


@dataclass(frozen=True)
class Device:
    """A character device, ``block=True`` a block device; needs privilege except for 0:0."""

    major: int
    minor: int
    mode: int = 0o644
    block: bool = False
    mtime_ns: int = OLD_NS


@dataclass(frozen=True)
class Whiteout:
    """Overlay's mark that a name is deleted: the character device 0:0."""


Node = (
    str
    | bytes
    | Mapping[str | bytes, "Node"]
    | File
    | Dir
    | Opaque
    | Symlink
    | HardLink
    | Fifo
    | Socket
    | Device
    | Whiteout
)


def build(path: str | bytes | Path, tree: "Mapping[str | bytes, Node]") -> None:
    """Create the objects of ``tree`` in the directory ``path``, which is made if it is absent."""
    root = os.fsencode(path)
    os.makedirs(root, exist_ok=True)
    _build_entries(root, root, tree)


def _build_entries(root: bytes, where: bytes, tree: "Mapping[str | bytes, Node]") -> None:
    for name, node in tree.items():
        _build_one(root, os.path.join(where, os.fsencode(name)), node)


def _build_one(root: bytes, path: bytes, node: "Node") -> None:
    match node:
        case str() | bytes():
            _build_one(root, path, File(node))
        case File():
            _build_file(path, node)
        case Dir():
            _build_directory(root, path, node)
        case Symlink():
            os.symlink(os.fsencode(node.target), path)
            os.utime(path, ns=(node.mtime_ns, node.mtime_ns), follow_symlinks=False)
        case HardLink():
            os.link(os.path.join(root, os.fsencode(node.to)), path, follow_symlinks=False)
        case Fifo():
            _make_node(path, stat.S_IFIFO, node.mode, node.mtime_ns)
        case Device():
            kind = stat.S_IFBLK if node.block else stat.S_IFCHR
            _make_node(path, kind, node.mode, node.mtime_ns, os.makedev(node.major, node.minor))
        case Socket():
            _make_node(path, stat.S_IFSOCK, node.mode, node.mtime_ns)
        case Whiteout():
            os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
        case _:
            _build_directory(root, path, Dir(node))


def _build_file(path: bytes, node: File) -> None:
    data = os.fsencode(node.data) if isinstance(node.data, str) else node.data
    with open(path, "wb") as file:
        position = 0
        for offset, length in sorted(node.holes):
            file.write(data[position:offset])
            position = offset + length
            file.seek(position)
        file.write(data[position:])
        file.truncate(max(len(data), position))
    _set_attributes(path, node)


def _build_directory(root: bytes, path: bytes, node: Dir) -> None:
    os.mkdir(path)
    _build_entries(root, path, node.entries)
    if isinstance(node, Opaque):
        os.setxattr(path, node.prefix + "opaque", b"y")
    _set_attributes(path, node)


def _set_attributes(path: bytes, node: File | Dir) -> None:
    """Owner, then what a change of owner clears, then the time that all of it would move."""
    if (node.uid, node.gid) != (os.geteuid(), os.getegid()):
        os.chown(path, node.uid, node.gid)
    os.chmod(path, node.mode)
    for name, value in node.xattrs.items():
        os.setxattr(path, name, value)
    os.utime(path, ns=(node.mtime_ns, node.mtime_ns))


def _make_node(path: bytes, kind: int, mode: int, mtime_ns: int, device: int = 0) -> None:
    if kind == stat.S_IFSOCK and os.geteuid() != 0:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
    else:
        os.mknod(path, kind | mode, device)
    os.chmod(path, mode)
    os.utime(path, ns=(mtime_ns, mtime_ns))


@dataclass(frozen=True)
class Entry:
    """All of one object that two equal trees have in common."""

    type: str
    mode: int
    uid: int
    gid: int
    size: int | None = None
    data: str | None = None  # sha256 of a file, target of a symlink
    rdev: int | None = None
    mtime_ns: int | str = "recent"
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    links: tuple[bytes, ...] = ()  # every name of this inode within the snapshot, if there are several


Snapshot = dict[bytes, Entry]

TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "chardev",
    stat.S_IFBLK: "blockdev",
}


def snapshot(path: str | bytes | Path, *, upper: bool = False, ghosts: bool = False) -> Snapshot:
    """Describe every object below ``path`` by its name relative to it, the root itself as ``b"."``.

    Of a merged view the xattrs are those of users, capabilities and ACLs; of an ``upper`` also overlay's own,
    under the neutral prefix ``overlay.``. An mtime later than any that ``build`` gives is only ``"recent"``.
    ``ghosts`` ignores names that are listed but cannot be looked up: the kernel lists the whiteouts of a
    directory that is merged with no other, and objects that it refuses.
    """
    root = os.fsencode(path)
    names = sorted(_walk(root, b".", ghosts=ghosts))
    inodes: dict[tuple[int, int], list[bytes]] = {}
    stats = {}
    for name in names:
        try:
            stats[name] = os.lstat(os.path.join(root, name))
        except OSError:
            if not ghosts:
                raise
    for name, status in stats.items():
        if not stat.S_ISDIR(status.st_mode):
            inodes.setdefault((status.st_dev, status.st_ino), []).append(name)
    return {
        name: _describe(
            os.path.join(root, name), status, inodes.get((status.st_dev, status.st_ino), []), upper=upper
        )
        for name, status in stats.items()
    }


def _walk(root: bytes, where: bytes, *, ghosts: bool) -> list[bytes]:
    found = [where]
    try:
        entries = list(os.scandir(os.path.join(root, where)))
    except OSError:
        if not ghosts or where == b".":
            raise
    else:
        for entry in entries:
            name = entry.name if where == b"." else os.path.join(where, entry.name)
            if entry.is_dir(follow_symlinks=False):
                found += _walk(root, name, ghosts=ghosts)
            else:
                found.append(name)
    return found


def _describe(path: bytes, status: os.stat_result, links: list[bytes], *, upper: bool) -> Entry:
    kind = TYPES[stat.S_IFMT(status.st_mode)]
    if upper and kind == "chardev" and status.st_rdev == 0:
        # One whiteout is as good as another: the kernel even makes them hard links of each other.
        return Entry("whiteout", 0, 0, 0)
    data = None
    if kind == "file":
        with open(path, "rb") as file:
            data = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    elif kind == "symlink":
        data = os.fsdecode(os.readlink(path))
    return Entry(
        type=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size if kind in ("file", "symlink") else None,
        data=data,
        rdev=status.st_rdev if kind in ("chardev", "blockdev") else None,
        mtime_ns=kept_time(status.st_mtime_ns),
        xattrs=_xattrs(path, upper=upper),
        links=tuple(links) if len(links) > 1 else (),
    )


def kept_time(mtime_ns: int) -> int | str:
    """A time that ``build`` may have given, or ``"recent"``: now, whenever that is."""
    return mtime_ns if mtime_ns < RECENT_NS else "recent"


def is_of_users(xattr: bytes) -> bool:
    """Whether a snapshot of a merged view has this xattr."""
    return xattr.startswith((b"user.", b"system.posix_acl_")) or xattr == b"security.capability"


def _xattrs(path: bytes, *, upper: bool) -> tuple[tuple[bytes, bytes], ...]:
    found = []
    for text in os.listxattr(path, follow_symlinks=False):
        name = os.fsencode(text)
        prefix = next((p for p in OVERLAY_PREFIXES if name.startswith(p)), None)
        if prefix and upper:
            value = os.getxattr(path, text, follow_symlinks=False)
            name = b"overlay." + name[len(prefix) :]
            if name not in _MOUNT_OWN:
                found.append((name, b"*" if name in _OPAQUE_VALUES else value))
        elif is_of_users(name):
            found.append((name, os.getxattr(path, text, follow_symlinks=False)))
    return tuple(sorted(found))


def diff(left: Snapshot, right: Snapshot, *, names: tuple[str, str] = ("left", "right")) -> str:
    """Say how two snapshots differ, one line a difference; the empty string when they are equal."""
    lines = []
    for path in sorted(left.keys() | right.keys()):
        shown = os.fsdecode(path)
        if path not in right:
            lines.append(f"{shown}: only in {names[0]}: {_brief(left[path])}")
        elif path not in left:
            lines.append(f"{shown}: only in {names[1]}: {_brief(right[path])}")
        elif left[path] != right[path]:
            for key in Entry.__dataclass_fields__:
                one, other = getattr(left[path], key), getattr(right[path], key)
                if one != other:
                    lines.append(f"{shown}: {key}: {names[0]} {one!r}, {names[1]} {other!r}")
    return "\n".join(lines)


def _brief(entry: Entry) -> str:
    return f"{entry.type} {entry.mode:04o} {entry.uid}:{entry.gid} size={entry.size} xattrs={dict(entry.xattrs)}"
