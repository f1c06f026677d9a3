"""Lower layers for the differential test: every kind of object stacked on every other, in many equal copies.

A *tree* is three layers drawn from a seed. Mounting is dear, so one pair of mounts serves many examples, each
of which works in a *copy* of its own: ``<tree>-<copy>/r`` in every layer.
"""

import random
from collections.abc import Mapping
from pathlib import Path

from trees import Dir, Fifo, File, HardLink, Node, Opaque, Symlink, Whiteout, build

LAYERS = 3
TREES = 32
COPIES = 8
NAMES = ("a", "b", "c", "d")
DEPTH = 3

_KINDS = ("absent", "file", "dir", "dir", "opaque", "symlink", "fifo", "whiteout", "hardlink")
_LEAVES = ("absent", "file", "symlink", "fifo", "whiteout", "hardlink")
_TARGETS = ("a", "b", "c/a", "../b", "nowhere", "d/../a")


def layer_of(tree: int, layer: int, prefix: str) -> dict[str, Node]:
    """One layer of a tree; ``prefix`` is that of the opaque marks."""
    return {"r": Dir(_entries(random.Random(tree * LAYERS + layer), prefix, "", 1))}


def _entries(choices: random.Random, prefix: str, where: str, depth: int) -> dict[str, Node]:
    entries: dict[str, Node] = {}
    files: list[str] = []
    for name in NAMES:
        kind = choices.choice(_KINDS if depth < DEPTH else _LEAVES)
        if kind == "hardlink" and not files:
            kind = "file"
        match kind:
            case "file":
                files.append(where + name)
                entries[name] = _file(choices, where + name)
            case "dir" | "opaque":
                below = _entries(choices, prefix, f"{where}{name}/", depth + 1)
                mode, uid = choices.choice((0o755, 0o700, 0o1777, 0o2755)), choices.choice((0, 0, 1000))
                xattrs = {"user.a": b"lower"} if choices.random() < 0.2 else {}
                if kind == "dir":
                    entries[name] = Dir(below, mode, uid, xattrs=xattrs)
                else:
                    entries[name] = Opaque(below, mode, uid, xattrs=xattrs, prefix=prefix)
            case "symlink":
                entries[name] = Symlink(choices.choice(_TARGETS))
            case "fifo":
                entries[name] = Fifo(choices.choice((0o644, 0o600)))
            case "whiteout":
                entries[name] = Whiteout()
            case "hardlink":
                entries[name] = HardLink("r/" + choices.choice(files))
    return entries


def _file(choices: random.Random, path: str) -> File:
    return File(
        data=path.encode() * choices.choice((0, 1, 3000)),
        mode=choices.choice((0o644, 0o600, 0o755, 0o4755, 0o444)),
        uid=choices.choice((0, 0, 1000)),
        gid=choices.choice((0, 1000)),
        xattrs={"user.a": b"lower"} if choices.random() < 0.2 else {},
    )


def copy_name(tree: int, copy: int) -> str:
    return f"{tree:02}-{copy}"


def build_all(lowers: tuple[Path, ...], prefix: str) -> None:
    """Fill the layers, given from top to bottom, with all copies of all trees."""
    for tree in range(TREES):
        for number, lower in enumerate(lowers):
            entries = layer_of(tree, number, prefix)
            for copy in range(COPIES):
                build(lower / copy_name(tree, copy), entries)


def shell_of(tree: int, prefix: str) -> str:
    """Commands that build one copy of a tree below ``lower0`` (the top) to ``lower2``."""
    lines = []
    for layer in range(LAYERS):
        lines.append(f"mkdir -p lower{layer}/r")
        r = layer_of(tree, layer, prefix)["r"]
        assert isinstance(r, Dir)
        lines += _shell(f"lower{layer}", f"lower{layer}/r", r.entries)
    return "\n".join(lines)


def _shell(root: str, where: str, entries: Mapping[str | bytes, Node]) -> list[str]:
    lines = []
    for name, node in entries.items():
        path = f"{where}/{name!s}"
        match node:
            case File():
                lines.append(f"head -c {len(node.data)} /dev/zero >{path}; chmod {node.mode:o} {path}")
            case Dir():
                lines.append(f"mkdir {path}")
                lines += _shell(root, path, node.entries)
                lines.append(f"chmod {node.mode:o} {path}")
                if isinstance(node, Opaque):
                    lines.append(f"setfattr -n {node.prefix}opaque -v y {path}")
            case Symlink():
                lines.append(f"ln -s {node.target!s} {path}")
            case Fifo():
                lines.append(f"mkfifo {path}")
            case Whiteout():
                lines.append(f"mknod {path} c 0 0")
            case HardLink():
                lines.append(f"ln {root}/{node.to!s} {path}")
        if isinstance(node, File | Dir):
            if node.uid or node.gid:
                lines.append(f"chown {node.uid}:{node.gid} {path}")
            lines += [f"setfattr -n {key} -v {value.decode()} {path}" for key, value in node.xattrs.items()]
    return lines
