"""An image's configuration and what was asked for, as the ``config.json`` of a bundle, which runc and crun run.

Source: OCI runtime-spec config.md and config-linux.md, image-spec conversion.md; the capabilities, masked and
read-only paths are docker's defaults (moby oci/defaults.go, oci/caps/defaults.go).
"""

import os
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .. import linux
from ..image.config import Config

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VERSION = "1.0.2"
_CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP"),
        *("NET_BIND_SERVICE", "NET_RAW", "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP"),
    )
]
_SETS = ("bounding", "permitted", "effective")
_MASKED = [f"/proc/{name}" for name in ("acpi", "asound", "kcore", "keys", "latency_stats", "timer_list", "scsi")]
_READ_ONLY = [f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger")]
_TTY = 5  # the group of terminals
_HOSTNAME_MAX = 64  # HOST_NAME_MAX
_ACCOUNT_SIZE = 1 << 20  # bytes of /etc/passwd and /etc/group that are read


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a container is to be run, beside what its image says."""

    command: Sequence[str] = ()
    env: Sequence[str] = ()  # NAME=VALUE, or NAME for that of the caller
    volumes: Sequence[str] = ()  # SOURCE:TARGET[:ro]
    workdir: str = ""
    user: str = ""
    hostname: str = ""
    network: str = "none"  # or host
    memory: int = 0  # bytes; 0: no limit
    terminal: bool = False
    read_only: bool = False

    def check(self) -> None:
        """Raises OSError with a sentence."""
        if len(self.hostname) > _HOSTNAME_MAX:
            raise OSError(f"the hostname is longer than {_HOSTNAME_MAX} characters")
        for item in self.env:
            if not item.partition("=")[0]:
                raise OSError(f"variable {item!r} has no name")
        for volume in self.volumes:
            source, target, _ = _volume(volume)
            if not os.path.exists(source):
                raise OSError(f"volume {volume}: {source} does not exist")
            if not os.path.isabs(target):
                raise OSError(f"volume {volume}: {target} is not an absolute path")


@dataclass(frozen=True, slots=True)
class Process:
    """What is executed first in a container, and as whom."""

    args: list[str]
    env: list[str]
    cwd: str
    uid: int
    gid: int
    groups: list[int]


Read = Callable[[str], bytes]
"""Gives what is in a file of a container's root; b"" if it is not there."""


def process_of(config: Config, options: Options, read: Read) -> Process:
    """Put together the image's Entrypoint, Cmd, Env, User and WorkingDir with what was asked for (image-spec
    conversion.md). Raises OSError if there is no command or user."""
    args = config.run_list("Entrypoint") + list(options.command or config.run_list("Cmd"))
    if not args or not args[0]:
        raise OSError("no command: the image has none, so give one")
    uid, gid, groups, home = _account(options.user or config.run_text("User"), read)
    asked = [item if "=" in item else f"{item}={os.environ.get(item, '')}" for item in options.env]
    env = {"PATH": PATH, "HOME": home}
    if options.terminal:
        env["TERM"] = os.environ.get("TERM", "xterm")
    for item in [*config.run_list("Env"), *asked]:
        name, _, value = item.partition("=")
        env[name] = value
    words = [f"{name}={value}" for name, value in env.items()]
    return Process(args, words, options.workdir or config.run_text("WorkingDir") or "/", uid, gid, groups)


def bundle(
    config: Config, options: Options, root: Path, *, hostname: str, cgroup: str = "", read: Read | None = None
) -> dict[str, Any]:
    """The ``config.json`` of a bundle whose root is at ``root``, and mounted there unless there is a ``read``.
    Raises OSError as :func:`process_of`."""
    process = process_of(config, options, read or partial(_read_in, root))
    if not (_is_mapped(process.uid, "uid") and _is_mapped(process.gid, "gid")):
        raise OSError(f"no user {process.uid}:{process.gid} here: /etc/subuid and /etc/subgid give you no such id")
    spaces = ["pid", "ipc", "uts", "mount"] + (["network"] if options.network == "none" else [])
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    linux_part: dict[str, Any] = {
        "namespaces": [{"type": name} for name in spaces],
        "maskedPaths": _MASKED,
        "readonlyPaths": _READ_ONLY,
        "resources": {"memory": {"limit": options.memory}} if options.memory else {},
    }
    if os.geteuid() != 0:  # for runc by hand; who runs it for us is root of a namespace already
        linux_part["namespaces"].append({"type": "user"})
        linux_part["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        linux_part["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
    if cgroup:
        linux_part["cgroupsPath"] = cgroup
    return {
        "ociVersion": _VERSION,
        "process": {
            "terminal": options.terminal,
            "user": {"uid": process.uid, "gid": process.gid, "additionalGids": process.groups},
            "args": process.args,
            "env": process.env,
            "cwd": process.cwd,
            "capabilities": dict.fromkeys(_SETS if process.uid == 0 else _SETS[:2], _CAPABILITIES),
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": min(1024, files[0]), "hard": files[1]}],
            "noNewPrivileges": False,
        },
        "root": {"path": os.fspath(root), "readonly": options.read_only},
        "hostname": options.hostname or hostname,
        "mounts": [*_mounts(options), *map(_bind, options.volumes)],
        "linux": linux_part,
    }


def _mount(target: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


_MOUNTS = [
    _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
    _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
    _mount(
        *("/dev/pts", "devpts", "devpts"),
        *("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", f"gid={_TTY}"),
    ),
    _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
    _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
]


def _mounts(options: Options) -> Iterator[dict[str, Any]]:
    """The usual ones; of an ordinary user, without what the kernel would refuse."""
    confined = os.geteuid() != 0 or linux.in_user_namespace()
    for item in _MOUNTS:
        if confined and item["type"] == "devpts" and not _is_mapped(_TTY, "gid"):
            yield {**item, "options": [option for option in item["options"] if option != f"gid={_TTY}"]}
        elif confined and item["type"] == "sysfs" and options.network == "host":  # which is not ours
            yield _mount("/sys", "bind", "/sys", "rbind", "nosuid", "noexec", "nodev", "ro")
        else:
            yield item


def _is_mapped(number: int, kind: str) -> bool:
    """Whether a "uid" or "gid" of the container is one at all, as far as this process is in its namespace."""
    if os.geteuid() != 0:
        return number == 0
    rows = [list(map(int, line.split())) for line in Path(f"/proc/self/{kind}_map").read_text().splitlines()]
    return any(first <= number < first + count for first, _, count in rows)


def _volume(text: str) -> tuple[str, str, bool]:
    """SOURCE, TARGET, and whether it is read-only."""
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source or not target or mode not in ("", "ro", "rw"):
        raise OSError(f"volume {text}: not SOURCE:TARGET[:ro]")
    return os.path.abspath(source), target, mode == "ro"


def _bind(text: str) -> dict[str, Any]:
    source, target, read_only = _volume(text)
    return _mount(target, "bind", source, "rbind", "rprivate", "ro" if read_only else "rw")


# -- users


def _account(user: str, read: Read) -> tuple[int, int, list[int], str]:
    """uid, gid, further groups and home directory for ``name``, ``uid``, or one of them with ``:group``."""
    who, _, group = user.partition(":")
    who = who or "0"
    accounts = _table(read("etc/passwd"), 7, (2, 3))
    row = next((row for row in accounts if who in (row[0], row[2])), None)
    if row is None and not who.isdecimal():
        raise OSError(f"no user {who} in the container's /etc/passwd")
    uid = int(row[2]) if row is not None else int(who)
    home = (row[5] if row is not None else "") or "/"
    groups = _table(read("etc/group"), 4, (2,))
    if group:
        return uid, _group(group, groups), [], home
    name = row[0] if row is not None else ""
    further = [int(row[2]) for row in groups if name and name in row[3].split(",")]
    return uid, int(row[3]) if row is not None else 0, further, home


def _group(group: str, groups: Sequence[Sequence[str]]) -> int:
    row = next((row for row in groups if group in (row[0], row[2])), None)
    if row is None and not group.isdecimal():
        raise OSError(f"no group {group} in the container's /etc/group")
    return int(row[2]) if row is not None else int(group)


def _table(content: bytes, columns: int, numbers: Sequence[int]) -> list[list[str]]:
    """Rows of a file like passwd(5)."""
    rows = [line.split(":") for line in content.decode(errors="replace").splitlines()]
    return [row for row in rows if len(row) == columns and all(row[column].isdecimal() for column in numbers)]


def _read_in(root: Path, path: str) -> bytes:
    """The beginning of a file, found without leaving the container's root."""
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = linux.openat2(root_fd, path.encode(), os.O_RDONLY | os.O_NONBLOCK, resolve=linux.RESOLVE_IN_ROOT)
    except OSError:
        return b""
    finally:
        os.close(root_fd)
    with open(fd, "rb") as file:
        return file.read(_ACCOUNT_SIZE)


def size_of(text: str) -> int:
    """``64m`` in bytes. Raises OSError for what is no size."""
    units: Mapping[str, int] = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
    digits = text.rstrip("bkmgBKMG")
    unit = text[len(digits) :].lower()
    if not digits.isdecimal() or unit not in units:
        raise OSError(f"{text!r} is no size (64m, 1g)")
    return int(digits) * units[unit]
