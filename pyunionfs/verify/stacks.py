"""Lower layers drawn from a seed: every kind of object stacked on every other.

A *tree* is three layers, each a directory ``r``. What lies in them is what a mount could have left there: a
redirect leaves a whiteout where the directory was, a metacopy file has its data below, an xattr whiteout lies in a
directory marked ``opaque=x``. (What is hostile or broken is enumerated by tests/differential/test_pairs.py.)
"""

import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .steps import Name
from .trees import Device, Dir, Fifo, File, HardLink, Node, Opaque, Socket, Symlink, Whiteout

LAYERS = 3
NAMES = ("a", "b", "c", "d")
DEPTH = 3

Entries = dict[str | bytes, Node]

_KINDS: tuple[str, ...] = (
    "absent",
    "file",
    "file",
    "dir",
    "dir",
    "dir",
    "opaque",
    "opaque-x",
    "symlink",
    "special",
)
_KINDS += ("whiteout", "hardlink")
_LEAVES = ("absent", "file", "file", "symlink", "special", "whiteout", "hardlink")
_TARGETS = ("a", "b", "c/a", "../b", "nowhere", "d/../a")
_MODES = (0o755, 0o755, 0o777, 0o700, 0o1777, 0o2755)
_REMOVABLE = (Dir, Whiteout, type(None))
_BASE = b"<base>"


def acl(*entries: tuple[int, int, int]) -> bytes:
    """The xattr of a POSIX ACL of (tag, permissions, id): see include/uapi/linux/posix_acl_xattr.h."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, perm, who) for tag, perm, who in entries)


_ANY = 0xFFFFFFFF
# owner, user 1000, group, mask, others
ACL = acl((1, 6, _ANY), (2, 6, 1000), (4, 4, _ANY), (0x10, 6, _ANY), (0x20, 0, _ANY))
MINIMAL_ACL = acl((1, 7, _ANY), (4, 5, _ANY), (0x20, 5, _ANY))


@dataclass(frozen=True)
class Shape:
    """What the layers may hold: as much as the mounts with these options understand."""

    prefix: str
    redirects: bool = False
    metacopy: bool = False
    index: bool = False
    exported: bool = False
    acls: bool = True
    owners: bool = True  # files may be given to others, and operations be done by them
    devices: bool = True
    handles: bool = True  # an origin can be opened by its handle
    opens: bool = True  # ours is told when a file is opened


def layers_of(seed: str, shape: Shape) -> list[Dir]:
    """The directory ``r`` of each layer from top to bottom; see :func:`placed`."""
    layers: list[Dir] = []
    for number in reversed(range(LAYERS)):
        choices = random.Random(f"{seed}/{number}")
        entries = _entries(choices, shape, "", 1)
        if layers and shape.redirects:
            _redirect(choices, shape, entries)
        mode, uid = choices.choice((0o755, 0o777, 0o1777)), _owner(choices, shape)
        made = Dir(entries, mode, uid, uid)
        layers.insert(0, _relate(choices, shape, made, layers[0]) if layers else made)
    return layers


def names_in(layers: Sequence[Dir]) -> list[Name]:
    """The paths that a union of these directories shows, roughly: a redirect is not followed."""
    return list(_names(layers, "")) or [Name("a")]


def _names(directories: Sequence[Dir], where: str) -> Iterator[Name]:
    for name in NAMES:
        found = [directory.entries[name] for directory in directories if name in directory.entries]
        if not found or isinstance(found[0], Whiteout):
            continue
        yield Name(where + name)
        merged: list[Dir] = []
        for node in found:
            if not isinstance(node, Dir):
                break
            merged.append(node)
            if any(key.endswith("overlay.opaque") and value == b"y" for key, value in node.xattrs.items()):
                break
        yield from _names(merged, f"{where}{name}/")


def placed(node: Dir, base: str) -> Dir:
    """The same directory with its redirects leading below ``base``, the path above ``r`` in every layer."""
    entries = {
        name: placed(entry, base) if isinstance(entry, Dir) else entry for name, entry in node.entries.items()
    }
    xattrs = {
        key: value.replace(_BASE, base.encode()) if key.endswith("overlay.redirect") else value
        for key, value in node.xattrs.items()
    }
    return replace(node, entries=entries, xattrs=xattrs)


def _owner(choices: random.Random, shape: Shape) -> int:
    return choices.choice((0, 0, 1000)) if shape.owners else 0


def _entries(choices: random.Random, shape: Shape, where: str, depth: int) -> Entries:
    entries: Entries = {}
    files: list[str] = []
    for name in NAMES:
        kind = choices.choice(_KINDS if depth < DEPTH else _LEAVES)
        if kind == "hardlink" and not files:
            kind = "file"
        match kind:
            case "file":
                files.append(where + name)
                entries[name] = _file(choices, shape, where + name)
            case "dir" | "opaque":
                entries[name] = _directory(choices, shape, kind, f"{where}{name}/", depth + 1)
            case "symlink":
                entries[name] = Symlink(choices.choice(_TARGETS))
            case "special":
                entries[name] = choices.choice(
                    (Fifo(0o644), Fifo(0o600), Socket(), Device(1, 3) if shape.devices else Fifo())
                )
            case "whiteout":
                entries[name] = Whiteout()
            case "hardlink":
                entries[name] = HardLink("r/" + choices.choice(files))
    return entries


def _directory(choices: random.Random, shape: Shape, kind: str, where: str, depth: int) -> Dir:
    below = _entries(choices, shape, where, depth)
    owner = _owner(choices, shape)
    made = Dir(below, choices.choice(_MODES), owner, owner, xattrs=_xattrs(choices))
    if shape.acls and choices.random() < 0.1:
        made = replace(made, xattrs={**made.xattrs, "system.posix_acl_default": ACL})
    if kind == "opaque":
        return replace(made, xattrs={**made.xattrs, shape.prefix + "opaque": b"y"})
    return made


def _file(choices: random.Random, shape: Shape, path: str) -> File:
    xattrs = _xattrs(choices)
    if shape.acls and choices.random() < 0.1:
        xattrs |= {"system.posix_acl_access": ACL}
    return File(
        data=path.encode() * choices.choice((0, 1, 3000)),
        mode=choices.choice((0o644, 0o600, 0o666, 0o755, 0o4755, 0o444)),
        uid=_owner(choices, shape),
        gid=_owner(choices, shape),
        xattrs=xattrs,
    )


def _xattrs(choices: random.Random) -> dict[str, bytes]:
    return {"user.a": b"lower"} if choices.random() < 0.2 else {}


def _redirect(choices: random.Random, shape: Shape, entries: Entries) -> None:
    """Once a layer: a directory that came from another name, which is left as a whiteout."""
    free = [name for name in NAMES if isinstance(entries.get(name), _REMOVABLE)]
    if len(free) < 2:
        return
    new, old = choices.sample(free, 2)
    moved = Dir(_entries(choices, shape, f"{new}/", DEPTH), 0o755)
    parent = entries.get(old)
    if isinstance(parent, Dir) and shape.prefix + "opaque" not in parent.xattrs and choices.random() < 0.5:
        name = choices.choice(NAMES)
        if not isinstance(parent.entries.get(name), _REMOVABLE):
            return
        assert isinstance(parent.entries, dict)
        parent.entries[name] = Whiteout()
        target = _BASE + f"/r/{old}/{name}".encode()
    else:
        entries[old] = Whiteout()
        target = old.encode()
    entries[new] = replace(moved, xattrs={shape.prefix + "redirect": target})


def _relate(choices: random.Random, shape: Shape, directory: Dir, below: Dir) -> Dir:
    """What makes sense above something only: metacopy files above files, and xattr whiteouts above anything.

    In a directory that is merged with nothing, the kernel lists an xattr whiteout, and finds it not empty.
    """
    entries = dict(directory.entries)
    linked = {str(node.to).rpartition("/")[2] for node in entries.values() if isinstance(node, HardLink)}
    xattrs = dict(directory.xattrs)
    hides = choices.random() < 0.3
    for name, under in below.entries.items():
        node = entries.get(name)
        if isinstance(node, Dir) and isinstance(under, Dir):
            if _merges(node, shape):
                entries[name] = _relate(choices, shape, node, under)
        elif isinstance(node, File) and isinstance(under, File) and name not in linked and shape.metacopy:
            if shape.prefix + "whiteout" not in under.xattrs and choices.random() < 0.7:
                entries[name] = _without_data(node, under, shape)
        elif node is None and hides and not isinstance(under, Whiteout):
            entries[name] = File(xattrs={shape.prefix + "whiteout": b"y"})
            xattrs[shape.prefix + "opaque"] = b"x"
    return replace(directory, entries=entries, xattrs=xattrs)


def _without_data(node: File, under: File, shape: Shape) -> File:
    size = len(under.data)
    holes = ((0, size),) if size else ()
    return replace(node, data=bytes(size), holes=holes, xattrs={**node.xattrs, shape.prefix + "metacopy": b""})


def _merges(node: Dir, shape: Shape) -> bool:
    return shape.prefix + "redirect" not in node.xattrs and node.xattrs.get(shape.prefix + "opaque") != b"y"


# As a shell would build them.


def shell_of(root: str, entries: Entries) -> Iterator[str]:
    """Commands that build ``entries`` in the directory ``root``; all times are set at the end, by the caller."""
    yield from _shell(root, root, entries)


def _shell(root: str, where: str, entries: Entries) -> Iterator[str]:
    for name, node in entries.items():
        path = f"{where}/{name!s}"
        match node:
            case File():
                yield from _shell_file(path, node)
            case Dir():
                yield f"mkdir {path}"
                assert isinstance(node.entries, dict)
                yield from _shell(root, path, node.entries)
                if node.uid or node.gid:
                    yield f"chown {node.uid}:{node.gid} {path}"
                yield f"chmod {node.mode:o} {path}"
                if isinstance(node, Opaque):
                    yield f"setfattr -n {node.prefix}opaque -v y {path}"
            case Symlink():
                yield f"ln -s {node.target!s} {path}"
            case Fifo():
                yield f"mkfifo -m {node.mode:o} {path}"
            case Socket():
                yield f"""python3 -c 'import os; os.mknod("{path}", 0o140644)'"""
            case Device():
                yield f"mknod -m {node.mode:o} {path} {'b' if node.block else 'c'} {node.major} {node.minor}"
            case Whiteout():
                yield f"mknod {path} c 0 0"
            case HardLink():
                yield f"ln -P {root}/{node.to!s} {path}"
        if isinstance(node, File | Dir):
            for key, value in node.xattrs.items():
                yield f"setfattr -n {key} -v {'0x' + value.hex() if value else chr(34) * 2} {path}"


def _shell_file(path: str, node: File) -> Iterator[str]:
    data = node.data.encode() if isinstance(node.data, str) else node.data
    unit = next((data[:size] for size in range(1, 64) if data == data[:size] * (len(data) // size)), data)
    if node.holes:
        yield f"truncate -s {len(data)} {path}"
    elif len(data) > len(unit):
        yield f"yes '{unit.decode()}' | head -n {len(data) // len(unit)} | tr -d '\\n' >{path}"
    else:
        yield f"printf %s '{data.decode()}' >{path}"
    if node.uid or node.gid:
        yield f"chown {node.uid}:{node.gid} {path}"
    yield f"chmod {node.mode:o} {path}"
