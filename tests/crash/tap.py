"""A tap on the system calls of the core: each one that changes a filesystem, announced before it is made.

The core makes all of its calls through ``os`` and ``pyunionfs.linux``, by attribute, so replacing the
attributes for a while is enough; it changes nothing but the upper and the work directory, so each change is one
of theirs. ``test_tap.py`` fails when the core makes a call that no table here knows.
"""

import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pyunionfs import linux


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# By these the upper and the work directory change.
CHANGES: dict[ModuleType, frozenset[str]] = {
    os: _words(
        """chmod chown copy_file_range fchmod fchown fdatasync fsync ftruncate lchown link mkdir mknod pwrite
        pwritev remove removexattr rename replace rmdir setxattr symlink truncate unlink utime write"""
    ),
    linux: _words("fallocate ficlone renameat2 utimensat"),
}
# These return a new descriptor; some flags make the first a change as well.
OPENS: dict[ModuleType, frozenset[str]] = {
    os: _words("open scandir listdir"),
    linux: _words("openat2 open_by_handle_at open_tree"),
}
# These change nothing on disk, or only when a union is mounted.
HARMLESS: dict[ModuleType, frozenset[str]] = {
    os: _words(
        """close dup fsdecode fsencode fspath fstat fstatvfs getegid geteuid getxattr listxattr lseek lstat makedev
        pipe posix_fadvise pread preadv readlink stat strerror urandom"""
    ),
    linux: _words(
        """birth_time filesystem_uuid getdents has_xattrs malloc_trim measure_verity name_to_handle_at syncfs mount
        mount_setattr umount2 unshare setns pivot_root die_with_parent in_user_namespace start_writeback"""
    ),
}
_HANDLE = re.compile(r"\b[0-9a-f]{32,}\b")  # names in the index
_CHANGING_FLAGS = os.O_CREAT | os.O_TRUNC | (os.O_TMPFILE & ~os.O_DIRECTORY)


@dataclass(frozen=True)
class Call:
    """One announced call: its name, the last components of the paths in it, and whether it changes anything."""

    name: str
    about: tuple[str, ...] = ()
    changes: bool = True

    def __str__(self) -> str:
        return " ".join((self.name, *self.about))


@contextmanager
def tap(announce: Callable[[Call], None]) -> Iterator[None]:
    """Have ``announce`` called before each change and each opening; what it raises the call raises."""
    originals = [
        (module, name, getattr(module, name))
        for table in (CHANGES, OPENS)
        for module, names in table.items()
        for name in names
    ]
    try:
        for module, name, original in originals:
            setattr(module, name, _tapped(original, name, name in CHANGES[module], announce))
        yield
    finally:
        for module, name, original in originals:
            setattr(module, name, original)


def _tapped(original: Callable[..., Any], name: str, changes: bool, announce: Callable[[Call], None]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        alters = changes or (name in ("open", "openat2") and _is_change(original, args, kwargs))
        announce(Call(name, tuple(_paths(args)), alters))
        return original(*args, **kwargs)

    return call


def _is_change(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(inspect.signature(original).bind(*args, **kwargs).arguments["flags"] & _CHANGING_FLAGS)


def _paths(args: tuple[Any, ...]) -> Iterator[str]:
    """Names without the descriptors before them and without binary values, so that two runs say the same."""
    for arg in args:
        text = os.fsdecode(arg) if isinstance(arg, str | bytes | os.PathLike) else ""
        last = text.rpartition("/")[2]
        if last and text.isprintable() and not (text.startswith("/proc/self/fd/") and last.isdecimal()):
            yield _HANDLE.sub("HANDLE", last)
