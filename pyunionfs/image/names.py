"""What a name in a layer's tar means: a place below the layer's root, or a mark about lower layers.

Pure rules, no I/O. Sources: OCI image-spec layer.md, "Whiteouts"; AUFS's ``.wh..wh.`` names, which the tools
hide. A path here is the names joined by ``/`` without one at either end; the layer's root is ``b""``.
"""

import enum
from dataclasses import dataclass

from pyunionfs.image.errors import ImageError, show

WHITEOUT_PREFIX = b".wh."
META_PREFIX = b".wh..wh."
OPAQUE_NAME = b".wh..wh..opq"
NAME_MAX = 255  # bytes in one component, limits.h


class Kind(enum.Enum):
    """What an entry is about."""

    ENTRY = "a file of this layer"
    WHITEOUT = "the name is deleted from the lower layers"
    OPAQUE = "the directory hides the content of the lower layers"
    IGNORED = "AUFS's own metadata"


@dataclass(frozen=True, slots=True)
class Place:
    """Where, and what."""

    kind: Kind
    path: bytes


def resolve(name: bytes) -> list[bytes]:
    """The components of a name confined to the root, as if in a chroot: ``../../a`` and ``/a`` are ``a``.

    Lexical, so a symlink plays no part. Raises ImageError for a NUL and for components that are too long.
    """
    if b"\0" in name:
        raise ImageError(f"a NUL in the name {show(name)}")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif len(part) > NAME_MAX:
            raise ImageError(f"a component of more than {NAME_MAX} bytes in the name {show(name)}")
        elif part not in (b"", b"."):
            parts.append(part)
    return parts


def place(name: bytes) -> Place:
    """What an entry of this name is about.

    1. Below or at AUFS metadata (``.wh..wh.*`` but for the opaque mark): ignored.
    2. Below a whiteout: refused, for nothing can be in what does not exist.
    3. ``.wh..wh..opq``: its directory is opaque.
    4. ``.wh.x``: x is deleted; the type of the entry and its content do not matter. Refused if x is empty,
       ``.`` or ``..``.
    """
    parts = resolve(name)
    for part in parts[:-1]:
        if part.startswith(META_PREFIX):
            return Place(Kind.IGNORED, b"/".join(parts))
        if part.startswith(WHITEOUT_PREFIX):
            raise ImageError(f"{show(name)} lies below the whiteout {show(part)}")
    if not parts or not parts[-1].startswith(WHITEOUT_PREFIX):
        return Place(Kind.ENTRY, b"/".join(parts))
    if parts[-1] == OPAQUE_NAME:
        return Place(Kind.OPAQUE, b"/".join(parts[:-1]))
    if parts[-1].startswith(META_PREFIX):
        return Place(Kind.IGNORED, b"/".join(parts))
    target = parts[-1][len(WHITEOUT_PREFIX) :]
    if target in (b"", b".", b".."):
        raise ImageError(f"the whiteout {show(name)} names nothing that could be deleted")
    return Place(Kind.WHITEOUT, b"/".join([*parts[:-1], target]))


def parent(path: bytes) -> bytes:
    """The directory that holds a path."""
    return path.rpartition(b"/")[0]


def base(path: bytes) -> bytes:
    """The last component of a path."""
    return path.rpartition(b"/")[2]


def within(path: bytes, directory: bytes) -> bool:
    """Whether ``path`` is ``directory`` or below it."""
    return not directory or path == directory or path.startswith(directory + b"/")
