"""How each filesystem is mounted on the same layers, and taken down again whatever happens."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.workloads import DATA

_URING = Path("/sys/module/fuse/parameters/enable_uring")
_LARGE = 1 << 20  # bytes
_serial = itertools.count()


@dataclass(frozen=True)
class Layers:
    lower: tuple[Path, ...]  # top to bottom
    upper: Path
    work: Path
    merged: Path

    def options(self, extra: str) -> str:
        lower = ":".join(map(str, self.lower))
        return f"lowerdir={lower},upperdir={self.upper},workdir={self.work}" + (extra and f",{extra}")


Argv = Callable[[Layers, str], list[str]]


@dataclass(frozen=True)
class Filesystem:
    """One way of mounting; the name may carry mount options: ``pyunionfs:transport=pyfuse3``."""

    name: str
    mount: Argv
    missing: Callable[[], str]  # why it cannot be measured here; empty if it can
    extra: str = ""
    lacks: frozenset[str] = frozenset()  # workloads that it has no way of doing

    def is_for(self, workload: str) -> bool:
        """Whether a workload says something about it: options about data want those that move data."""
        about_data = any(option in self.extra for option in ("passthrough=on", "writeback=on"))
        return workload not in self.lacks and (workload in DATA or not about_data)


def _kernel(layers: Layers, extra: str) -> list[str]:
    """By names that are as short as can be: it takes one page of options."""
    top = os.path.commonpath([*layers.lower, layers.merged])
    lower = ":".join(os.path.relpath(path, top) for path in layers.lower)
    upper, work = (os.path.relpath(path, top) for path in (layers.upper, layers.work))
    options = f"lowerdir={lower},upperdir={upper},workdir={work}" + (extra and f",{extra}")
    return ["env", f"--chdir={top}", "mount", "-t", "overlay", "overlay", "-o", options, str(layers.merged)]


def _fuse_overlayfs(layers: Layers, extra: str) -> list[str]:
    return ["fuse-overlayfs", "-o", layers.options(extra), str(layers.merged)]


def _pyunionfs(layers: Layers, extra: str) -> list[str]:
    """As mount(8) and container tools call it, who wait for it."""
    return [_program(), "overlay", str(layers.merged), "-o", layers.options(extra)]


def _unionfs_fuse(layers: Layers, extra: str) -> list[str]:
    branches = [f"{layers.upper}=RW", *(f"{path}=RO" for path in layers.lower)]
    options = ",".join(["cow,allow_other,default_permissions", *([extra] if extra else [])])
    return ["unionfs", "-o", options, ":".join(branches), str(layers.merged)]


def _mergerfs(layers: Layers, extra: str) -> list[str]:
    branches = [f"{layers.upper}=RW", *(f"{path}=RO" for path in layers.lower)]
    options = ",".join(["allow_other,category.create=ff", *([extra] if extra else [])])
    return ["mergerfs", "-o", options, ":".join(branches), str(layers.merged)]


def _program() -> str:
    """The pyunionfs of this virtualenv, whatever PATH says."""
    beside = Path(sys.executable).with_name("pyunionfs")
    return str(beside) if beside.exists() else "pyunionfs"


def _kernel_missing() -> str:
    if os.geteuid() != 0:
        return "mounting it needs root"
    return "" if "\toverlay\n" in Path("/proc/filesystems").read_text() else _modprobe()


def _modprobe() -> str:
    loaded = shutil.which("modprobe") and subprocess.run(["modprobe", "-q", "overlay"]).returncode == 0
    return "" if loaded else "this kernel has no overlay"


def _program_missing(program: str) -> str:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse is missing or not ours to open"
    return "" if shutil.which(program) else f"{program} is not installed"


ALL = {
    "kernel": Filesystem("kernel", _kernel, _kernel_missing),
    "fuse-overlayfs": Filesystem("fuse-overlayfs", _fuse_overlayfs, lambda: _program_missing("fuse-overlayfs")),
    "unionfs-fuse": Filesystem(
        "unionfs-fuse", _unionfs_fuse, lambda: _program_missing("unionfs"), lacks=frozenset({"read-direct"})
    ),
    # It copies nothing up: what is there is changed or removed where it is, also in a branch for reading.
    "mergerfs": Filesystem(
        "mergerfs",
        _mergerfs,
        lambda: _program_missing("mergerfs"),
        lacks=frozenset({"rm", "copy-up", "copy-up-small", "copy-up-middling", "make"}),
    ),
    "pyunionfs": Filesystem("pyunionfs", _pyunionfs, lambda: _program_missing(_program())),
}


def parse(names: str) -> list[Filesystem]:
    """``kernel,pyunionfs:transport=pyfuse3+noatime``: each name with the mount options it wants."""
    chosen = []
    for name in names.split(","):
        known, _, extra = name.partition(":")
        if known not in ALL:
            raise ValueError(f"unknown filesystem {known!r}; known: {', '.join(ALL)}")
        chosen.append(replace(ALL[known], name=name, extra=extra.replace("+", ",")))
    return chosen


@contextmanager
def mounted(filesystem: Filesystem, lower: tuple[Path, ...], scratch: Path) -> Iterator[Path]:
    """The union of ``lower`` and a fresh upper below ``scratch``, where all but large files are left."""
    own = scratch / f"u{next(_serial)}"
    layers = Layers(lower, own / "upper", own / "work", own / "merged")
    for directory in (layers.upper, layers.work, layers.merged):
        directory.mkdir(parents=True)
    uring = _URING.read_text() if _URING.exists() else ""
    try:
        subprocess.run(
            filesystem.mount(layers, filesystem.extra), check=True, capture_output=True, text=True, timeout=60
        )
        if not os.path.ismount(layers.merged):
            raise RuntimeError(f"{filesystem.name} said that it mounted, and did not")
        yield layers.merged
    finally:
        unmount(layers.merged)
        _remove_large(layers.upper)
        if uring and _URING.read_text() != uring:  # enable_uring=on, which would be for all mounts after it
            _URING.write_text(uring)


def unmount(mountpoint: Path) -> None:
    """Gone when this returns, lazily if it is busy; its daemon is gone too, and its CPU time with it."""
    umount = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    for options in ([], [], ["-l" if os.geteuid() == 0 else "-z"]):
        if str(mountpoint) not in mountpoints():
            break
        if subprocess.run([*umount, *options, str(mountpoint)], capture_output=True).returncode != 0:
            time.sleep(0.5)
    deadline = time.monotonic() + 10
    while daemons(mountpoint) and time.monotonic() < deadline:
        time.sleep(0.02)


def unmount_below(directory: Path) -> None:
    for mountpoint in sorted(mountpoints(), reverse=True):
        if mountpoint.startswith(f"{directory}/"):
            unmount(Path(mountpoint))


def mountpoints() -> list[str]:
    """The second field of each line; a space is written as \\040."""
    lines = Path("/proc/self/mounts").read_bytes().splitlines()
    return [os.fsdecode(line.split()[1].decode("unicode_escape").encode("latin-1")) for line in lines]


def daemons(mountpoint: Path) -> list[Path]:
    """The directories in /proc of those who have the mount point in their argv, as the FUSE daemons do."""
    wanted = os.fsencode(mountpoint)
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            argv = process.read_bytes().split(b"\0")
        except OSError:  # it ended meanwhile
            continue
        if wanted in argv:
            found.append(process.parent)
    return found


@dataclass(frozen=True)
class Cost:
    """What the daemons of a mount have used."""

    cpu: float  # seconds
    memory: float  # MiB, what they do not share counted once (PSS)

    @classmethod
    def of(cls, mountpoint: Path) -> Cost:
        cpu = memory = 0.0
        for process in daemons(mountpoint):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            pss = re.search(r"^Pss:\s+(\d+) kB", (process / "smaps_rollup").read_text(), re.MULTILINE)
            memory += int(pss[1]) / 1024 if pss else 0
        return cls(cpu, memory)


def _remove_large(directory: Path) -> None:
    """Not the others: for minutes after thousands of files were removed, ext4 takes many times as long to make one
    (recently_deleted() in fs/ext4/ialloc.c), and that would be the next filesystem's time."""
    for where, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(where, name)
            if os.lstat(path).st_size > _LARGE:
                os.unlink(path)


def spread(directory: Path) -> None:
    """Have ext4 keep what is made in each of its directories apart, for the same reason."""
    subprocess.run(["chattr", "+T", directory], capture_output=True)


def remove(directory: Path) -> None:
    """The kernel leaves work/work with mode 000, which stops rmtree where we are not root."""
    for inner in directory.glob("u*/work/work"):
        inner.chmod(0o700)
    shutil.rmtree(directory, ignore_errors=True)
