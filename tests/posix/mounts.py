"""Making unions: the directories of one, and the same call for each implementation that can mount it.

``native`` is no union at all but the plain upper directory: the judge of the tests themselves.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from pyunionfs.verify.mounting import PLAIN, USERXATTR, Layers, Mounter, Options, kernel, unmount
from pyunionfs.verify.mounting import pyunionfs as ours

REDIRECT: Options = {**PLAIN, "redirect_dir": "on"}
METACOPY: Options = {**REDIRECT, "metacopy": "on"}
INDEX: Options = {**PLAIN, "index": "on"}
ALL: Options = {**METACOPY, "index": "on", "xino": "on"}
OPTION_SETS: Mapping[str, Options] = {
    "trusted": PLAIN,
    "userxattr": USERXATTR,
    "redirect": REDIRECT,
    "metacopy": METACOPY,
    "index": INDEX,
    "all": ALL,
}

__all__ = ["PLAIN", "USERXATTR", "Layers", "Mounter", "Options", "devfuse", "kernel", "ours", "pyfuse3", "unmount"]


def devfuse(layers: Layers, options: Options = PLAIN, **more: Any) -> AbstractContextManager[Path]:
    """Ours, by the direct transport; on /dev/fuse, also where io_uring is enabled."""
    return ours(layers, {"channel": "poll", **options, "transport": "devfuse"}, **more)


def pyfuse3(layers: Layers, options: Options = PLAIN, **more: Any) -> AbstractContextManager[Path]:
    """Ours, by libfuse."""
    return ours(layers, {**options, "transport": "pyfuse3"}, **more)


@contextmanager
def native(layers: Layers, options: Options = PLAIN, *, read_only: bool = False) -> Iterator[Path]:
    """No union: the upper directory itself."""
    del options, read_only
    yield layers.upper


MOUNTERS: Mapping[str, Mounter] = {"native": native, "kernel": kernel, "devfuse": devfuse, "pyfuse3": pyfuse3}


def daemon_of(path: Path) -> int:
    """The process that serves a mount of ours."""
    return int(json.loads(os.getxattr(path, "user.pyunionfs"))["pid"])


def processes_of(path: Path) -> list[int]:
    """The daemon of a mount of ours, after the process that would start another one if it died."""
    told = json.loads(os.getxattr(path, "user.pyunionfs"))
    return list(dict.fromkeys([told["started_by"], told["pid"]]))


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
