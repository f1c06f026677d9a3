"""What is measured: a table of small functions at the end of this file.

``prepare`` puts what a workload needs into the layers, once, before any mount. ``run`` is what is
timed: it gets the merged directory, and returns how much it handled (files or bytes), which has to
be the same on every filesystem: a fast wrong answer is an error here.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True)
class Inputs:
    """Two lower layers and what lies outside the union, all below ``root``."""

    root: Path
    files: int = 10_000
    tar_files: int = 5_000
    big: int = 1024 * MIB

    @property
    def lower(self) -> tuple[Path, ...]:
        return self.root / "top", self.root / "bottom"

    @property
    def tar(self) -> Path:
        return self.root / "files.tar"

    @property
    def names(self) -> list[str]:
        """The files of the tree in an order that no listing has; the same in every run."""
        names = [f"tree/{number % 100:02}/{number:05}" for number in range(self.files)]
        random.Random(0).shuffle(names)
        return names


Prepare = Callable[[Inputs], None]
Run = Callable[[Path, Inputs], int]


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    prepare: Prepare
    run: Run
    warm: bool = False  # run once, unmeasured, before the measured run; else on a cold mount
    first: Run | None = None  # what else has to be run before, unmeasured


# ---- prepare


def tree(inputs: Inputs) -> None:
    """4 KiB files in 100 directories, all in the bottom layer; the top one hides every tenth."""
    top, bottom = inputs.lower
    if (bottom / "tree").exists():
        return
    for number, name in enumerate(inputs.names):
        for layer in (bottom, top) if number % 10 == 0 else (bottom,):
            (layer / name).parent.mkdir(parents=True, exist_ok=True)
            (layer / name).write_bytes(random.Random(number).randbytes(4096))


def big(inputs: Inputs) -> None:
    _, bottom = inputs.lower
    if not (bottom / "big").exists():
        block = random.Random(0).randbytes(MIB)
        with (bottom / "big").open("wb") as file:
            for _ in range(inputs.big // MIB):
                file.write(block)


def tarball(inputs: Inputs) -> None:
    if inputs.tar.exists():
        return
    source = inputs.root / "tar"
    for number in range(inputs.tar_files):
        file = source / f"new/{number % 50:02}/{number:05}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(random.Random(number).randbytes(random.Random(number).randrange(8192)))
    subprocess.run(["tar", "-C", source, "-cf", inputs.tar, "new"], check=True)
    shutil.rmtree(source)


def nothing(inputs: Inputs) -> None:
    """Writing wants no input."""


# ---- run


def walk(merged: Path, inputs: Inputs) -> int:
    found = subprocess.run(["find", merged / "tree", "-ls"], check=True, capture_output=True).stdout
    return found.count(b"\n")


def stat(merged: Path, inputs: Inputs) -> int:
    return sum(os.stat(f"{merged}/{name}").st_size for name in inputs.names)


def read(merged: Path, inputs: Inputs) -> int:
    total = 0
    for name in inputs.names:
        fd = os.open(f"{merged}/{name}", os.O_RDONLY)
        total += len(os.read(fd, MIB))
        os.close(fd)
    return total


def absent(merged: Path, inputs: Inputs) -> int:
    """Names that are nowhere, as a search path asks for them."""
    return sum(not os.path.exists(f"{merged}/{name}.py") for name in inputs.names)


def create(merged: Path, inputs: Inputs) -> int:
    (merged / "made").mkdir()
    for number in range(inputs.tar_files):
        fd = os.open(f"{merged}/made/{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, b"x" * 1000)
        os.close(fd)
    return len(os.listdir(merged / "made"))


def rename(merged: Path, inputs: Inputs) -> int:
    for number in range(inputs.tar_files):
        os.rename(f"{merged}/made/{number}", f"{merged}/made/to{number}")
    return len(os.listdir(merged / "made"))


def unlink(merged: Path, inputs: Inputs) -> int:
    for number in range(inputs.tar_files):
        os.unlink(f"{merged}/made/{number}")
    return len(os.listdir(merged / "made"))


def copy(merged: Path, inputs: Inputs) -> int:
    subprocess.run(["cp", "-a", merged / "tree", merged / "copied"], check=True)
    return sum(len(files) for _, _, files in os.walk(merged / "copied"))


def git(merged: Path, inputs: Inputs) -> int:
    """A repository of what the tar holds: add, commit, and two checkouts."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    subprocess.run(["tar", "-C", merged, "-xf", inputs.tar], check=True)

    def run(*words: str) -> None:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *words]
        subprocess.run(command, cwd=merged / "new", env=environment, check=True, capture_output=True)

    run("init", "-q")
    run("commit", "-q", "--allow-empty", "-m", "empty")
    run("add", "-A")
    run("commit", "-q", "-m", "all")
    run("checkout", "-q", "HEAD~1")
    run("checkout", "-q", "-")
    return len(os.listdir(merged / "new"))


def write_small(merged: Path, inputs: Inputs) -> int:
    """Writes of 100 bytes, as logs are written."""
    with open(merged / "log", "ab", buffering=0) as file:
        for _ in range(inputs.files):
            file.write(b"x" * 100)
    return os.stat(merged / "log").st_size


def untar(merged: Path, inputs: Inputs) -> int:
    subprocess.run(["tar", "-C", merged, "-xf", inputs.tar], check=True)
    return len(os.listdir(merged / "new"))


def remove(merged: Path, inputs: Inputs) -> int:
    subprocess.run(["rm", "-rf", merged / "tree"], check=True)
    return os.listdir(merged).count("tree")


def read_big(merged: Path, inputs: Inputs) -> int:
    total, block = 0, bytearray(MIB)
    with open(merged / "big", "rb", buffering=0) as file:
        while count := file.readinto(block):
            total += count
    return total


def write_big(merged: Path, inputs: Inputs) -> int:
    block = bytes(MIB)
    with open(merged / "written", "wb", buffering=0) as file:
        for _ in range(inputs.big // MIB):
            file.write(block)
    return os.stat(merged / "written").st_size


def append(merged: Path, inputs: Inputs) -> int:
    """The first byte that makes a lower file ours: copy-up is in it, with the kernel's fsync."""
    fd = os.open(merged / "big", os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"!")
    os.close(fd)
    return os.stat(merged / "big").st_size


WORKLOADS = (
    Workload("walk-cold", "find -ls, cold", tree, walk),
    Workload("stat-cold", "stat of each file, cold", tree, stat),
    Workload("stat-warm", "stat of each file, warm", tree, stat, warm=True),
    Workload("read-cold", "read of each file, cold", tree, read),
    Workload("read-warm", "read of each file, warm", tree, read, warm=True),
    Workload("absent", "look-ups of absent names", tree, absent),
    Workload("create", "creating small files", nothing, create),
    Workload("rename", "renaming them", nothing, rename, first=create),
    Workload("unlink", "removing them", nothing, unlink, first=create),
    Workload("untar", "untar into the union", tarball, untar),
    Workload("cp", "cp -a of a lower tree", tree, copy),
    Workload("git", "untar, git add, commit, checkout", tarball, git),
    Workload("rm", "rm -rf of a lower tree", tree, remove),
    Workload("read-big", "sequential read, cold", big, read_big),
    Workload("write-big", "sequential write", nothing, write_big),
    Workload("write-small", "writes of 100 bytes", nothing, write_small),
    Workload("copy-up", "first byte appended", big, append),
)
