"""A container without a runtime: what runc does, in the order in which it does it, for reading.

::

    python -m pyunionfs.container.unshared BUNDLE PIDFILE

1. Leave the namespaces of the caller (unshare(2)): mounts, hostname, IPC, network, and for children, PIDs.
2. The child is PID 1 of the new PID namespace. It waits until its parent has noted that and passes signals on.
   Nothing that it mounts is to be seen outside (MS_PRIVATE).
3. Mount what the bundle asks for below the new root, and make the device nodes that every program expects.
4. Make the new root the root (pivot_root(2)), and let go of the old one: from here on there is nothing else.
5. Become the user that the image names, and execute the command.

What runc does beyond this: it drops capabilities, filters system calls (seccomp), hides parts of /proc, and sets
limits by cgroups. So this confines nobody who means harm. Sources: namespaces(7), pivot_root(2), OCI runtime-spec.
"""

import json
import os
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import Any

from .. import linux

_SPACES = {
    "mount": linux.CLONE_NEWNS,
    "uts": linux.CLONE_NEWUTS,
    "ipc": linux.CLONE_NEWIPC,
    "network": linux.CLONE_NEWNET,
    "pid": linux.CLONE_NEWPID,
}
_FLAGS = {
    "ro": linux.MS_RDONLY,
    "nosuid": linux.MS_NOSUID,
    "nodev": linux.MS_NODEV,
    "noexec": linux.MS_NOEXEC,
    "bind": linux.MS_BIND,
    "rbind": linux.MS_BIND | linux.MS_REC,
    "strictatime": linux.MS_STRICTATIME,
}
PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that who runs a container gives to the container's first process."""
_PROPAGATION = ("rprivate", "private", "rw")
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}


def run(bundle: Path, pid_file: Path) -> int:
    """Run a bundle; returns its exit code, as a shell would tell it. Raises OSError."""
    linux.die_with_parent()  # who runs a container stays with it
    spec = json.loads((bundle / "config.json").read_bytes())
    linux.unshare(sum(_SPACES[item["type"]] for item in spec["linux"]["namespaces"]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, the container has it too
    reading, writing = os.pipe()
    pid = os.fork()  # only children are in the new PID namespace
    if pid == 0:
        os.close(writing)
        if not os.read(reading, 1):
            os._exit(1)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            _enter(spec)
            _execute(spec["process"])
        except OSError as error:
            words = f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else str(error)
            print(f"pyunionfs: {words}", file=sys.stderr)
        except ValueError as error:  # what no system call takes: an empty name, a zero byte
            print(f"pyunionfs: {error}", file=sys.stderr)
        os._exit(127)
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(pid, number))
    pid_file.write_text(f"{pid}")
    os.write(writing, b"\0")  # from here on pivot_root(2) changes our root as well: there is no pid_file any more
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def _enter(spec: dict[str, Any]) -> None:
    """Steps 2 to 4."""
    root = spec["root"]["path"]
    socket.sethostname(spec["hostname"])
    linux.mount(b"none", b"/", b"", linux.MS_REC | linux.MS_PRIVATE, b"")
    # pivot_root wants a mount point, and one that is no shared mount.
    linux.mount(os.fsencode(root), os.fsencode(root), b"", linux.MS_BIND | linux.MS_REC, b"")
    for item in spec["mounts"]:
        _mount(root, item)
        if item["destination"] == "/dev":
            _make_devices(root + "/dev")
    os.chdir(root)
    linux.pivot_root(b".", b".")  # the old root lies on top of the new one now
    linux.umount2(b".", linux.MNT_DETACH)
    os.chdir("/")
    if spec["root"].get("readonly"):
        linux.mount(b"none", b"/", b"", linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY, b"")


def _mount(root: str, item: dict[str, Any]) -> None:
    options = item["options"]
    flags = sum(_FLAGS[name] for name in options if name in _FLAGS)
    data = ",".join(name for name in options if name not in _FLAGS and name not in _PROPAGATION)
    target = _target(root, item)
    source, kind = os.fsencode(item["source"]), item["type"]
    if kind == "bind":
        linux.mount(source, target, b"", linux.MS_BIND | linux.MS_REC, b"")
        if flags & linux.MS_RDONLY:
            target = _target(root, item)  # of the new mount, and not of what it covers
            linux.mount(source, target, b"", flags | linux.MS_REMOUNT | linux.MS_BIND, b"")
    else:
        linux.mount(source, target, kind.encode(), flags, data.encode())


def _target(root: str, item: dict[str, Any]) -> bytes:
    """Where to mount: made if need be, and never outside the root, whatever symlinks the image has."""
    parts = [part for part in item["destination"].split("/") if part]
    is_file = item["type"] == "bind" and not os.path.isdir(item["source"])
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for position, part in enumerate(parts):
        name = os.fsencode(part)
        try:
            if is_file and position == len(parts) - 1:
                os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=fd))
            else:
                os.mkdir(name, 0o755, dir_fd=fd)
        except FileExistsError:
            pass
        below = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        if stat.S_ISLNK(os.fstat(below).st_mode):
            raise OSError(f"{item['destination']}: the image has a symlink there")
        os.close(fd)
        fd = below
    return b"/proc/self/fd/%d" % fd  # kept open until the command is executed


def _make_devices(where: str) -> None:
    old = os.umask(0)
    for name, (major, minor) in _DEVICES.items():
        path = f"{where}/{name}"
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        except PermissionError:  # in a user namespace: those of the machine, then
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666))
            linux.mount(f"/dev/{name}".encode(), path.encode(), b"", linux.MS_BIND, b"")
    for name, target in _LINKS.items():
        os.symlink(target, f"{where}/{name}")
    os.umask(old)


def _execute(process: dict[str, Any]) -> None:
    """Step 5."""
    os.makedirs(process["cwd"], exist_ok=True)
    os.chdir(process["cwd"])
    user = process["user"]
    if user["additionalGids"] or Path("/proc/self/setgroups").read_text() != "deny\n":
        os.setgroups(user["additionalGids"])
    os.setgid(user["gid"])
    os.setuid(user["uid"])
    linux.die_with_parent()
    env = dict(item.partition("=")[::2] for item in process["env"])
    os.execvpe(process["args"][0], process["args"], env)


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), Path(sys.argv[2])))
