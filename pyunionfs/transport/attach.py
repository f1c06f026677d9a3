"""Making a FUSE mount: by mount(2), or by fusermount3 for those who may not."""

import array
import errno
import os
import select
import socket
import subprocess
from collections.abc import Set
from dataclasses import dataclass

from .. import linux
from . import mount

_MS_POSIXACL = 1 << 16
_MS_FLAGS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "sync": 16, "dirsync": 128, "noatime": 1024}
_COMMFD = "_FUSE_COMMFD"  # names the socket over which fusermount3 passes the descriptor
_READ_AHEAD_KB = b"512"  # twice as fast as the default of 128 where a disk is read in order; more gave nothing


@dataclass(frozen=True, slots=True)
class Attached:
    """A FUSE mount that this process made."""

    fd: int  # of /dev/fuse
    mountpoint: str
    mount_id: str

    def detach(self) -> None:
        """Unmount it, unless somebody did, or has mounted something else on top of it."""
        poll = select.poll()
        poll.register(self.fd, 0)
        # POLLERR: it is not mounted any more, and its id may be that of another mount by now.
        if not poll.poll(0) and mount.top_mount_id(self.mountpoint) == self.mount_id:
            mount.detach(self.mountpoint, lazy=True)

    def read_far_ahead(self) -> None:
        """Have the kernel ask for more at once when a file is read in order, where we may say so."""
        try:
            with open(f"/sys/class/bdi/{mount.device_of(self.mount_id)}/read_ahead_kb", "wb") as file:
                file.write(_READ_AHEAD_KB)
        except OSError:
            pass  # not root, or no sysfs here: slower, and as it is


def attach(mountpoint: str, options: Set[str]) -> Attached:
    """Mount FUSE at a directory. Raises OSError, with the words of fusermount3 where that failed."""
    return mount_directly(mountpoint, options) or _by_fusermount(mountpoint, options)


def mount_directly(mountpoint: str, options: Set[str]) -> Attached | None:
    """Mount FUSE at a directory by mount(2); None where only fusermount3 may mount.

    MS_POSIXACL has the kernel leave the umask to the filesystem, which alone can know whether a default ACL
    takes its place (fuse_fill_super_common: "umasking inside the fuse code"); fusermount3 does not pass it on.
    """
    if os.geteuid() != 0:
        return None
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    flags = _MS_POSIXACL | sum(bit for name, bit in _MS_FLAGS.items() if name in options)
    source = next((os.fsencode(word[7:]) for word in options if word.startswith("fsname=")), b"pyunionfs")
    data = [f"fd={fd}", f"rootmode={os.stat(mountpoint).st_mode:o}", "user_id=0", "group_id=0"]
    data += sorted(options & {"allow_other", "default_permissions"})
    try:
        linux.mount(source, os.fsencode(mountpoint), mount.FSTYPE.encode(), flags, ",".join(data).encode())
    except PermissionError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return _attached(fd, mountpoint)


def _by_fusermount(mountpoint: str, options: Set[str]) -> Attached:
    """fusermount3 mounts and passes the descriptor (mount_util.c of libfuse, receive_fd)."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = ["fusermount3", "-o", ",".join(sorted(options)), "--", mountpoint]
        environment = {**os.environ, _COMMFD: str(theirs.fileno())}
        try:
            done = subprocess.run(
                command,
                env=environment,
                pass_fds=[theirs.fileno()],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except FileNotFoundError:
            raise OSError(errno.EPERM, "an ordinary user needs fusermount3 (package fuse3) to mount") from None
        theirs.close()
        fd = _receive_fd(ours)
    if fd is None:
        words = done.stderr.strip().removeprefix("fusermount3: ") or "fusermount3 could not mount"
        raise OSError(errno.EPERM, words)
    os.set_inheritable(fd, False)
    return _attached(fd, mountpoint)


def _receive_fd(connection: socket.socket) -> int | None:
    descriptors = array.array("i")
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(descriptors.itemsize))
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: descriptors.itemsize])
    return descriptors[0] if descriptors else None


def _attached(fd: int, mountpoint: str) -> Attached:
    real = mount.real_path(mountpoint)
    return Attached(fd, real, mount.top_mount_id(real))
