"""Mounting, unmounting and what is mounted: read from the system, never from a file of our own.

``/proc/self/mountinfo`` tells which mounts are ours (type ``fuse.pyunionfs``); each daemon tells of itself
through an xattr of its root directory, and what no longer answers is a mount whose daemon died.
"""

import errno
import json
import os
import select
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .. import linux

FSTYPE = "fuse.pyunionfs"
INFO_XATTR = "user.pyunionfs"
"""Read on the root of a mount, this tells as JSON what is mounted there; it is in no listing, on no disk.
An xattr holds 64 KiB, which hundreds of long paths may exceed: then it is compressed (zlib)."""
REFRESH_XATTR = "user.pyunionfs.refresh"
"""Read on the root of a mount by root or the owner of the mount, this has the layers looked at again."""
REEXEC_XATTR = "user.pyunionfs.reexec"
"""Read on the root of a mount by root or the owner of the mount, this has the daemon leave for one with the code
that is installed now. The value says why it does not; if it does, there is none."""
_XATTR_SIZE_MAX = 65536
Info = Callable[[Mapping[str, object]], bytes]
"""What a transport answers to a read of INFO_XATTR, given what it adds itself."""

_ANSWER_WAIT = 3.0  # seconds for a daemon to tell of itself
_REEXEC_WAIT = 90.0  # seconds
_PAUSE = 0.02  # seconds
_EXIT_WAIT = 15.0  # seconds for a daemon to end after the unmount


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount of ours."""

    mountpoint: str
    state: str  # "live", "dead" (its daemon is gone), "hidden" (not ours to look into), "stuck"
    info: Mapping[str, Any]  # what the daemon told: pid, lower, upper, work, transport...; empty unless live

    @property
    def pid(self) -> int | None:
        return self.info.get("pid")


def mounts() -> list[Mount]:
    """All mounts of ours in this mount namespace, in the order they were made."""
    return [_inspect(path) for path in _mountpoints()]


def find(path: str) -> Mount | None:
    """The mount of ours that is at exactly this path, if any (the topmost, if several are stacked)."""
    real = real_path(path)
    return _inspect(real) if real in _mountpoints() else None


def containing(path: str) -> Mount | None:
    """The mount of ours that a path lies in, if any."""
    real = real_path(path)
    holders = [point for point in _mountpoints() if (real + "/").startswith(point.rstrip("/") + "/")]
    return _inspect(max(holders, key=len)) if holders else None


def unmount(path: str, *, lazy: bool = False) -> None:
    """Unmount and wait until the daemon has ended; a mount whose daemon died is removed as well.

    ``lazy`` detaches it even while it is in use. Raises OSError: EINVAL where nothing of ours is mounted,
    EBUSY where it is in use, EPERM where it is somebody else's.
    """
    mount = find(path)
    if mount is None:
        raise OSError(errno.EINVAL, f"{path} is not mounted by pyunionfs")
    pidfds = [fd for pid in {mount.pid, mount.info.get("started_by")} if pid and (fd := _pidfd(pid)) >= 0]
    try:
        detach(mount.mountpoint, lazy=lazy or mount.state == "dead")
        if not lazy:
            for pidfd in pidfds:
                select.select([pidfd], [], [], _EXIT_WAIT)
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return -1  # it has ended meanwhile


def clear_dead(path: str) -> None:
    """Remove what daemons that died have left mounted at a path, so that it can be a mount point again.

    Whoever still uses it has had nothing but ENOTCONN from it. A mount that lives, or that is not ours to look
    into, stays.
    """
    while (mount := find(path)) is not None and mount.state == "dead":
        detach(mount.mountpoint, lazy=True)


def encode_info(info: Mapping[str, Any]) -> bytes:
    """What a daemon answers to a read of :data:`INFO_XATTR`."""
    plain = json.dumps(info).encode()
    return plain if len(plain) <= _XATTR_SIZE_MAX else zlib.compress(plain)


def decode_info(value: bytes) -> Mapping[str, Any]:
    """Inverse of :func:`encode_info`."""
    told: dict[str, Any] = json.loads(value if value.startswith(b"{") else zlib.decompress(value))
    return told


def real_path(path: str) -> str:
    """Resolve all but the last component, which may be a mount that does not answer."""
    head, tail = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(head), tail)


class _Row(NamedTuple):
    """One mount in this namespace, see proc(5)."""

    mount_id: str
    device: str  # major:minor
    mountpoint: str
    fstype: str


def _mountinfo() -> Iterator[_Row]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mountinfo:
        for line in mountinfo:
            fields = line.split(" ")
            yield _Row(fields[0], fields[2], _unescape(fields[4]), fields[fields.index("-") + 1])


def _mountpoints() -> list[str]:
    return [row.mountpoint for row in _mountinfo() if row.fstype == FSTYPE]


def top_mount_id(path: str) -> str:
    """The mount that is on top at a path, "" if none is."""
    ids = [row.mount_id for row in _mountinfo() if row.mountpoint == path]
    return ids[-1] if ids else ""


def device_of(mount_id: str) -> str:
    """The device number ``major:minor`` of a mount, "" if it is gone."""
    return next((row.device for row in _mountinfo() if row.mount_id == mount_id), "")


def filesystem_of(path: str) -> str:
    """The type of the filesystem that a path is on, or would be, "unknown" if that cannot be seen."""
    real = os.path.realpath(path)
    rows = [row for row in _mountinfo() if (real + "/").startswith(row.mountpoint.rstrip("/") + "/")]
    return max(reversed(rows), key=lambda row: len(row.mountpoint)).fstype if rows else "unknown"


def _unescape(text: str) -> str:
    """mountinfo writes space, tab, newline and backslash as octal escapes."""
    for char in " \t\n\\":
        text = text.replace(f"\\{ord(char):03o}", char)
    return text


def _inspect(path: str) -> Mount:
    """Ask the daemon, but do not hang with one that does not answer."""
    answer: list[bytes | OSError] = []

    def ask() -> None:
        try:
            answer.append(os.getxattr(path, INFO_XATTR))
        except OSError as error:
            answer.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ANSWER_WAIT)
    if not answer:
        return Mount(path, "stuck", {})
    told = answer[0]
    if isinstance(told, bytes):
        return Mount(path, "live", decode_info(told))
    return Mount(path, "dead" if told.errno in (errno.ENOTCONN, errno.ECONNABORTED) else "hidden", {})


def detach(path: str, *, lazy: bool) -> None:
    """Unmount by umount2(2), or by fusermount3 where only that may. Raises OSError: EBUSY, EPERM."""
    flags = linux.UMOUNT_NOFOLLOW | (linux.MNT_DETACH if lazy else 0)
    try:
        linux.umount2(os.fsencode(path), flags)
        return
    except PermissionError:
        pass  # an ordinary user has fusermount3 do it
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise OSError(errno.EPERM, "an ordinary user needs fusermount3 (package fuse3) to unmount") from None
    if done.returncode:
        busy = "busy" in done.stderr.lower()
        message = done.stderr.strip().removeprefix("fusermount3: ") or "fusermount3 failed"
        raise OSError(errno.EBUSY if busy else errno.EPERM, message)


def refresh(mountpoint: str) -> None:
    """Make what others changed in the layers of a mount visible there; returns when it is.

    Raises OSError(EINVAL) if nothing of ours is mounted there, EPERM for users other than root and the owner.
    """
    if find(mountpoint) is None:
        raise OSError(errno.EINVAL, f"{mountpoint} is not mounted by pyunionfs")
    try:
        os.getxattr(mountpoint, REFRESH_XATTR)
    except OSError as error:
        if error.errno == errno.ENODATA:
            raise OSError(errno.EPERM, f"{mountpoint} is somebody else's mount") from None
        raise


def reexec(mountpoint: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Move a mount to the code that is installed now. Returns what the old and the new daemon tell of themselves.

    Raises OSError: EINVAL if nothing of ours is mounted there, EPERM for users other than root and the owner,
    EOPNOTSUPP where no other daemon can take over, ENOEXEC with a sentence if the new code cannot, ETIMEDOUT.
    """
    mount = find(mountpoint)
    if mount is None:
        raise OSError(errno.EINVAL, f"{mountpoint} is not mounted by pyunionfs")
    if mount.state == "live" and not mount.info.get("takeover"):
        raise OSError(errno.EOPNOTSUPP, f"{mountpoint}: no other daemon can take over (see takeover in the README)")
    deadline = time.monotonic() + _REEXEC_WAIT
    while True:
        try:
            words = os.getxattr(mountpoint, REEXEC_XATTR)
            break
        except OSError as error:
            if error.errno == errno.ENODATA:
                raise OSError(errno.EPERM, f"{mountpoint} is somebody else's mount") from None
            if error.errno != errno.EAGAIN or time.monotonic() > deadline:  # it is busy
                raise
        time.sleep(_PAUSE)
    if words:
        raise OSError(errno.ENOEXEC, f"{mountpoint} stays as it is: {words.decode(errors='replace')}")
    while time.monotonic() < deadline:
        told = decode_info(os.getxattr(mountpoint, INFO_XATTR))
        if told["pid"] != mount.pid:
            return mount.info, told
        time.sleep(_PAUSE)
    raise OSError(errno.ETIMEDOUT, f"{mountpoint}: the old daemon does not leave")
