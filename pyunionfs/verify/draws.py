"""What the machine draws: for each rule the operation and where its arguments come from.

A rule that is listed with a weight is drawn as often as so many rules. hypothesis shrinks towards the first element
of each list, so the simplest comes first.
"""

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from ..linux import UTIME_NOW, UTIME_OMIT
from . import stacks
from .operations import OLD_S
from .stacks import ACL, MINIMAL_ACL
from .steps import Name, Octal, OpenFlags, Pick, Slot, Slots

Draw = st.SearchStrategy[Any]

_PICKED = st.integers(0, 1 << 16).map(Pick)
_ANY_PATH = st.lists(st.sampled_from(stacks.NAMES), min_size=1, max_size=stacks.DEPTH).map(
    lambda names: Name("/".join(names))
)
PATHS = st.one_of(_PICKED, _PICKED, _ANY_PATH)  # most operations want something that is there
DIRECTORIES = st.one_of(PATHS, st.just(Name(".")))
SLOTS = st.integers(0, 2).map(Slot)
WHERE = st.one_of(PATHS, PATHS, SLOTS)
USERS = st.sampled_from([0, 0, 0, 1000])

MODES = st.sampled_from([0o644, 0o600, 0o755, 0o4755, 0o2755, 0o1777, 0o000, 0o777]).map(Octal)
NODES = st.sampled_from(
    [
        (Octal(mode), device)
        for mode, device in (
            (0o010644, 0),
            (0o100640, 0),
            (0o020600, 0x103),
            (0o060600, 0x103),
            (0o140600, 0),
            (0o020600, 0),
        )
    ]
)
SIZES = st.sampled_from([0, 1, 5, 4096, 10_000])
OFFSETS = st.sampled_from([0, 3, 9000])
DATA = st.sampled_from([b"", b"new", b"x" * 5000])
OWNERS = st.sampled_from([-1, 0, 1000, 1001])
TIMES = st.sampled_from([(OLD_S, 7), (0, 0), (0, UTIME_NOW), (0, UTIME_OMIT)])
XATTRS = st.sampled_from(
    [
        "user.a",
        "user.b",
        "trusted.a",
        "user.overlay.x",
        "trusted.overlay.opaque",
        "user.overlay.opaque",
        "trusted.overlay.overlay.x",
        "user.overlay.overlay.metacopy",
        "security.a",
        "system.posix_acl_access",
        "system.posix_acl_default",
    ]
)
ACLS = st.sampled_from([ACL, MINIMAL_ACL])

_ACCESS = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
_EXTRA = st.sampled_from(
    [
        0,
        os.O_CREAT,
        os.O_CREAT | os.O_EXCL,
        os.O_CREAT | os.O_TRUNC,
        os.O_TRUNC,
        os.O_APPEND,
        os.O_CREAT | os.O_APPEND,
        os.O_NOFOLLOW,
        os.O_CREAT | os.O_NOFOLLOW,
        os.O_DIRECTORY,
        os.O_DIRECTORY | os.O_NOFOLLOW,
        os.O_CREAT | os.O_DIRECTORY,
        os.O_NOATIME,
        os.O_SYNC,
        os.O_CREAT | os.O_DSYNC,
    ]
)
_ANY_FLAGS = st.one_of(
    st.builds(lambda access, extra: OpenFlags(access | extra), _ACCESS, _EXTRA),
    st.sampled_from([os.O_PATH, os.O_PATH | os.O_NOFOLLOW, os.O_PATH | os.O_DIRECTORY]).map(OpenFlags),
)
_WRITE_FLAGS = st.sampled_from(
    [
        OpenFlags(access | extra)
        for access in (os.O_WRONLY, os.O_RDWR)
        for extra in (0, os.O_APPEND, os.O_TRUNC, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_TRUNC)
    ]
)


@dataclass(frozen=True)
class Rule:
    """The operation of a rule, its arguments in order, and how often it comes."""

    verb: str
    arguments: Mapping[str, Draw]
    weight: int = 1


def _rule(verb: str, weight: int = 1, **arguments: Draw) -> Rule:
    return Rule(verb, arguments, weight)


RULES: Mapping[str, Rule] = {
    "read": _rule("read", 2, path=PATHS, flags=_ANY_FLAGS),
    "write": _rule("write", 3, path=PATHS, flags=_WRITE_FLAGS, data=DATA, offset=st.one_of(st.none(), OFFSETS)),
    "open": _rule("open_", path=PATHS, flags=_ANY_FLAGS),
    "truncate": _rule("truncate", where=WHERE, size=SIZES),
    "map_shared": _rule("map_shared", path=PATHS, offset=OFFSETS, data=st.sampled_from([b"m", b"m" * 2000])),
    "map_private": _rule("map_private", path=PATHS, data=st.sampled_from([b"p", b"p" * 2000])),
    "make_unnamed": _rule("make_unnamed", directory=DIRECTORIES, name=PATHS, data=DATA),
    "allocate": _rule("allocate", path=PATHS, mode=st.sampled_from([0, 1, 3, 0x11]), offset=OFFSETS, length=SIZES),
    "mkdir": _rule("mkdir", 2, path=PATHS, mode=MODES),
    "rmdir": _rule("rmdir", path=PATHS),
    "unlink": _rule("unlink", 2, path=PATHS),
    "remove_tree": _rule("remove_tree", path=PATHS),
    "rename": _rule("rename", 4, old=PATHS, new=PATHS, flags=st.sampled_from([0, 0, 0, 1, 2, 2, 3, 4])),
    "link": _rule("link", 2, old=PATHS, new=PATHS, follow=st.sampled_from([False, False, True])),
    "symlink": _rule("symlink", to=st.sampled_from(["a", "b/c", "../d", "nowhere"]), path=PATHS),
    "mknod": _rule("mknod", path=PATHS, node=NODES),
    "chmod": _rule("chmod", 2, where=st.one_of(WHERE, st.just(Name("."))), mode=MODES),
    "chown": _rule("chown", 2, where=WHERE, uid=OWNERS, gid=OWNERS),
    "utime": _rule("utime", where=WHERE, atime=TIMES, mtime=TIMES),
    "setxattr": _rule(
        "setxattr",
        where=WHERE,
        name=XATTRS,
        value=st.sampled_from([b"", b"y", b"new"]),
        flags=st.sampled_from([0, 0, 1, 2]),
    ),
    "setacl": _rule(
        "setxattr",
        where=WHERE,
        name=st.sampled_from(["system.posix_acl_access", "system.posix_acl_default"]),
        value=ACLS,
        flags=st.just(0),
    ),
    "getxattr": _rule("getxattr", where=WHERE, name=XATTRS),
    "removexattr": _rule("removexattr", where=WHERE, name=XATTRS),
    "listxattr": _rule("listxattr", where=WHERE),
    "listdir": _rule("listdir", where=st.one_of(DIRECTORIES, SLOTS)),
    "list_in_pieces": _rule("list_in_pieces", path=DIRECTORIES, size=st.sampled_from([64, 100, 4096])),
    "stat": _rule("stat_", where=WHERE, follow=st.booleans()),
    "access": _rule("access", path=PATHS, mode=st.integers(1, 7)),
    "readlink": _rule("readlink", path=PATHS),
    "statfs": _rule("statfs", where=WHERE),
    "hold": _rule("hold", 3, fds=st.just(Slots()), slot=st.integers(0, 2), path=PATHS, flags=_ANY_FLAGS),
    "let_go": _rule("let_go", fds=st.just(Slots()), slot=st.integers(0, 2)),
    "pread": _rule("pread", fd=SLOTS, sizes=st.sampled_from([(100_000,), (1, 7, 4096)]), offset=OFFSETS),
    "pwrite": _rule("pwrite", fd=SLOTS, data=DATA, offset=OFFSETS),
    "append": _rule("append", fd=SLOTS, data=DATA),
    "fsync": _rule("fsync", fd=SLOTS, only_data=st.booleans()),
    "seek_data": _rule("seek", fd=SLOTS, offset=OFFSETS, whence=st.sampled_from([os.SEEK_DATA, os.SEEK_HOLE])),
    "flock": _rule("flock", fd=SLOTS, how=st.sampled_from([fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_UN])),
    "lock_range": _rule(
        "lock_range",
        fd=SLOTS,
        kind=st.sampled_from([fcntl.F_WRLCK, fcntl.F_RDLCK, fcntl.F_UNLCK]),
        start=OFFSETS,
        length=SIZES,
    ),
}
