"""The language of trees, where the tests look for it; it lives in ``pyunionfs.verify``, which needs it too."""

from pyunionfs.verify.trees import (
    OLD_NS,
    Device,
    Dir,
    Entry,
    Fifo,
    File,
    HardLink,
    Node,
    Opaque,
    Snapshot,
    Socket,
    Symlink,
    Whiteout,
    build,
    diff,
    snapshot,
)

__all__ = [
    "OLD_NS",
    "Device",
    "Dir",
    "Entry",
    "Fifo",
    "File",
    "HardLink",
    "Node",
    "Opaque",
    "Snapshot",
    "Socket",
    "Symlink",
    "Whiteout",
    "build",
    "diff",
    "snapshot",
]
