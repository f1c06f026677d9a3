"""Making unions: the directories of one, and the same call for each implementation that can mount it.

``native`` is no union at all but the plain upper directory: the judge of the tests themselves.
"""

import contextlib
import errno
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import syscalls

Options = Mapping[str, str | bool]

# The kernel's defaults differ from machine to machine, so each option is said. redirect_dir=off means
# "follow" where the module parameter redirect_always_follow is set, which userxattr does not allow.
PLAIN: Options = {
    "index": "off",
    "metacopy": "off",
    "redirect_dir": "off",
    "xino": "off",
    "nfs_export": "off",
    "uuid": "auto",
}
USERXATTR: Options = {**PLAIN, "redirect_dir": "nofollow", "userxattr": True}
REDIRECT: Options = {**PLAIN, "redirect_dir": "on"}
METACOPY: Options = {**REDIRECT, "metacopy": "on"}
INDEX: Options = {**PLAIN, "index": "on"}
ALL: Options = {**METACOPY, "index": "on", "xino": "on"}
OPTION_SETS: dict[str, Options] = {
    "trusted": PLAIN,
    "userxattr": USERXATTR,
    "redirect": REDIRECT,
    "metacopy": METACOPY,
    "index": INDEX,
    "all": ALL,
}


@dataclass(frozen=True)
class Layers:
    """The directories of one union: lowers from top to bottom, upper, work, and where to mount it."""

    lower: tuple[Path, ...]
    upper: Path
    work: Path
    merged: Path

    @classmethod
    def create(cls, root: Path, *, lowers: int = 1) -> "Layers":
        """Make empty directories below ``root``; those that exist are taken as they are."""
        lower = tuple(root / f"lower{number}" for number in range(lowers))
        layers = cls(lower, root / "upper", root / "work", root / "merged")
        for path in (*lower, layers.upper, layers.work, layers.merged):
            path.mkdir(parents=True, exist_ok=True)
        return layers

    def with_upper(self, root: Path) -> "Layers":
        """The same lowers under another upper, workdir and mount point below ``root``."""
        other = Layers.create(root, lowers=0)
        return Layers(self.lower, other.upper, other.work, other.merged)


@contextmanager
def native(layers: Layers, options: Options = PLAIN, *, read_only: bool = False) -> Iterator[Path]:
    """No union: the upper directory itself."""
    del options, read_only
    yield layers.upper


@contextmanager
def kernel(layers: Layers, options: Options = PLAIN, *, read_only: bool = False) -> Iterator[Path]:
    """The kernel's overlayfs."""
    data = [] if "lowerdir" in options else ["lowerdir=" + ":".join(str(path) for path in layers.lower)]
    if not read_only:
        data += [f"upperdir={layers.upper}", f"workdir={layers.work}"]
    data += [key if value is True else f"{key}={value}" for key, value in options.items()]
    syscalls.mount("overlay", layers.merged, "overlay", ",".join(data))
    try:
        yield layers.merged
    finally:
        unmount(layers.merged)


@contextmanager
def pyfuse3(
    layers: Layers, options: Options = PLAIN, *, read_only: bool = False, data: Sequence[Path] = ()
) -> Iterator[Path]:
    """pyunionfs, served by pyfuse3."""
    import pyunionfs

    writable = {} if read_only else {"upper": layers.upper, "work": layers.work}
    directories = {"lower": layers.lower, "data": data, "mountpoint": layers.merged, **writable}
    with pyunionfs.mounted(**directories, options=options) as path:
        yield Path(path)


Mounter = Callable[..., AbstractContextManager[Path]]
MOUNTERS: dict[str, Mounter] = {"native": native, "kernel": kernel, "pyfuse3": pyfuse3}


def unmount(target: Path) -> None:
    """Unmount, waiting out short-lived users; detach as the last resort, so that nothing stays behind."""
    for attempt in range(40):
        try:
            syscalls.umount(target)
        except OSError as error:
            if error.errno == errno.EINVAL:  # no mount point any more
                return
            if error.errno != errno.EBUSY:
                raise
            time.sleep(0.01 * attempt)
        else:
            return
    syscalls.umount(target, syscalls.MNT_DETACH)
    raise OSError(errno.EBUSY, f"somebody still uses {target}; it was detached")


def daemon_of(path: Path) -> int:
    """The process that serves a mount of ours."""
    return int(json.loads(os.getxattr(path, "user.pyunionfs"))["pid"])


def mount_points() -> list[Path]:
    """Every mount point that this process sees."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        return [Path(line.split()[4].encode().decode("unicode_escape")) for line in lines]


def daemons(below: Path) -> dict[int, str]:
    """Processes other than this one and its ancestors whose command line names a path in ``below``."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if f"{below}/" in command and int(directory.name) not in _ancestors():
                found[int(directory.name)] = command.strip()
    return found


def _ancestors() -> set[int]:
    found, pid = set(), "self"
    while pid != "0":
        status = Path(f"/proc/{pid}/stat").read_text()
        found.add(int(status.split(" ", 1)[0]))
        pid = status.rpartition(")")[2].split()[1]
    return found
