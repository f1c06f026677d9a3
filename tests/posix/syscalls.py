"""System calls for tests that Python's ``os`` lacks, and work done as another user.

Deliberately apart from ``pyunionfs.linux``: a mistake there must not hide itself from the tests.
"""

import ctypes
import os
import pickle
import struct
import traceback
from collections.abc import Callable, Sequence
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4
MNT_DETACH = 2
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2
_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_EMPTY_PATH = 0x1000

# Whom to be when a test needs somebody without privileges.
USER = 12345
GROUP = 12346
OTHER_GROUP = 12347


def _check(result: int, what: object) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(what))
    return result


def renameat2(old: "os.PathLike[Any] | str | bytes", new: "os.PathLike[Any] | str | bytes", flags: int) -> None:
    """Rename with RENAME_NOREPLACE or RENAME_EXCHANGE."""
    _check(_libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags), old)


def utimensat(path: "os.PathLike[Any] | str | bytes", atime_nsec: int, mtime_nsec: int) -> None:
    """Set times with the special values UTIME_NOW and UTIME_OMIT as nanoseconds (seconds are 0)."""
    times = struct.pack("=qqqq", 0, atime_nsec, 0, mtime_nsec)
    _check(_libc.utimensat(_AT_FDCWD, os.fsencode(path), times, _AT_SYMLINK_NOFOLLOW), path)


def linkat_fd(fd: int, target: "os.PathLike[Any] | str | bytes") -> None:
    """Give a name to an open file, such as one opened with O_TMPFILE."""
    source = os.fsencode(f"/proc/self/fd/{fd}")
    _check(_libc.linkat(_AT_FDCWD, source, _AT_FDCWD, os.fsencode(target), 0x400), target)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2): 0 allocates, 3 punches a hole and keeps the size."""
    _check(_libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)), fd)


def mount(source: str, target: "os.PathLike[str] | str", fstype: str, options: str) -> None:
    """mount(2) without flags."""
    arguments = (
        os.fsencode(source),
        os.fsencode(target),
        fstype.encode(),
        ctypes.c_ulong(0),
        os.fsencode(options),
    )
    _check(_libc.mount(*arguments), f"mount -t {fstype} -o {options} {target}")


def umount(target: "os.PathLike[str] | str", flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), flags), target)


def name_to_handle_at(path: "os.PathLike[str] | str") -> bytes:
    """The file handle of a path; EOPNOTSUPP where the filesystem has none."""
    buffer = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0), 8 + 128)
    mount_id = ctypes.c_int()
    _check(_libc.name_to_handle_at(_AT_FDCWD, os.fsencode(path), buffer, ctypes.byref(mount_id), 0), path)
    return buffer.raw[8 : 8 + struct.unpack_from("=I", buffer.raw)[0]]


class ChildError(Exception):
    """A forked child failed with something else than OSError; carries its traceback as text."""


def in_child(function: Callable[[], Any]) -> Any:
    """Run ``function`` in a forked child; return what it returns, raise the OSError that it raises."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            try:
                outcome = ("value", function())
            except OSError as error:
                outcome = ("error", (error.errno, f"{error.strerror} (in the child)", error.filename))
            except BaseException:
                outcome = ("broken", traceback.format_exc())
            with open(writer, "wb") as pipe:
                pickle.dump(outcome, pipe)
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    kind, value = pickle.loads(answer) if answer else ("broken", "the child died")
    if kind == "error":
        raise OSError(*value)
    if kind == "broken":
        raise ChildError(value)
    return value


def as_user(
    where: "os.PathLike[str] | str",
    function: Callable[[], Any],
    *,
    uid: int = USER,
    gid: int = GROUP,
    groups: Sequence[int] = (),
) -> Any:
    """Run ``function`` as somebody without privileges, in the working directory ``where``.

    Use relative names in it: the directories above belong to the user who runs the tests.
    """

    def become_and_call() -> Any:
        os.chdir(where)
        os.setgroups(list(groups))
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        return function()

    return in_child(become_and_call)
