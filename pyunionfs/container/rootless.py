"""Containers of an ordinary user, who is root of a user namespace: what podman and runc call rootless.

Who runs a container enters a user namespace of its own, and from there on nothing differs: it mounts, and a runtime
makes namespaces. Users beside root have the subordinate ids of /etc/subuid, if there are any. On disk everything
belongs to the user: owner and mode of the container's files are kept in xattrs (``xattr_permissions=2``), so that
whoever removes or commits a container needs no namespace. Sources: user_namespaces(7), subuid(5), newuidmap(1).
"""

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .. import linux

_READY = b"\0"
_POLL = 0.01  # seconds
_END_WAIT = 5.0  # seconds, for a daemon to unmount


def is_needed() -> bool:
    """Whether this process is no root, of no namespace."""
    return os.geteuid() != 0


def enter() -> None:
    """Go on as root of a new user namespace, and in a new mount namespace. This must be the only thread.

    Raises OSError if the kernel or newuidmap(1) does not allow it.
    """
    waiting, telling = os.pipe()
    pid = os.getpid()
    child = os.fork()
    if child == 0:  # stays outside: only from there can ids be mapped that are not one's own
        code = 1
        try:
            os.close(telling)
            if os.read(waiting, 1) == _READY:
                _map(pid)
                code = 0
        finally:
            os._exit(code)
    os.close(waiting)
    try:
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
        os.write(telling, _READY)
    finally:
        os.close(telling)
        _, status = os.waitpid(child, 0)
    if status:
        raise OSError("no user namespace: the ids could not be mapped")


def _map(pid: int) -> None:
    """Have the user be root in the namespace of a process, and the subordinate ids all others."""
    uid, gid = os.geteuid(), os.getegid()
    ranges = {kind: subordinate(kind) for kind in ("uid", "gid")}
    if all(ranges.values()):
        for kind, own in (("uid", uid), ("gid", gid)):
            words, inside = ["0", f"{own}", "1"], 1
            for start, count in ranges[kind]:
                words += [f"{inside}", f"{start}", f"{count}"]
                inside += count
            subprocess.run([f"new{kind}map", f"{pid}", *words], check=True)
        return
    Path(f"/proc/{pid}/setgroups").write_text("deny")  # or a group could be left that something is denied to
    Path(f"/proc/{pid}/gid_map").write_text(f"0 {gid} 1")
    Path(f"/proc/{pid}/uid_map").write_text(f"0 {uid} 1")


def subordinate(kind: str) -> list[tuple[int, int]]:
    """First id and count of each range of "uid" or "gid" that this user may map, by /etc/subuid and newuidmap."""
    table, uid = Path(f"/etc/sub{kind}"), os.geteuid()
    if not table.exists() or shutil.which(f"new{kind}map") is None:
        return []
    try:
        names = (pwd.getpwuid(uid).pw_name, f"{uid}")
    except KeyError:
        names = (f"{uid}",) * 2
    rows = [line.split(":") for line in table.read_text().splitlines()]
    return [(int(row[1]), int(row[2])) for row in rows if len(row) == 3 and row[0] in names]


def join(pid: int) -> None:
    """Go on as root of the user namespace that a process is in. This must be the only thread. Raises OSError."""
    fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        linux.setns(fd, linux.CLONE_NEWUSER)
    finally:
        os.close(fd)


def inside(pid: int, work: Callable[[], int]) -> int:
    """What ``work`` returns (0 to 255), done by a process that has joined the user namespace of another."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            join(pid)
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def daemons_of(mountpoint: Path) -> list[int]:
    """The processes of this user's that serve a mount, which may be one that only they see."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if process.stat().st_uid == os.geteuid() and os.fsencode(mountpoint) in words:
                found.append(int(process.name))
    return found


def end_daemons(mountpoint: Path) -> None:
    """End a mount that nobody else does, since who was to unmount it was killed."""
    deadline = time.monotonic() + _END_WAIT
    while found := daemons_of(mountpoint):
        number = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(_POLL)
