"""What is measured: small functions, and at the end of this file the table of them."""

from __future__ import annotations

import mmap
import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

from benchmarks.inputs import (
    MIB,
    Inputs,
    Workload,
    big,
    listing,
    middling,
    nothing,
    repository,
    run_git,
    sources,
    stack,
    tarball,
    tree,
    wheel,
)


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
    subprocess.run(["tar", "-C", merged, "-xf", inputs.tar], check=True)
    for words in (
        ["init", "-q"],
        ["commit", "-q", "--allow-empty", "-m", "empty"],
        ["add", "-A"],
        ["commit", "-q", "-m", "all"],
        ["checkout", "-q", "HEAD~1"],
        ["checkout", "-q", "-"],
    ):
        run_git(merged / "new", *words)
    return len(os.listdir(merged / "new"))


def clone(merged: Path, inputs: Inputs) -> int:
    run_git(merged, "clone", "-q", "--no-local", inputs.repository, "cloned")
    return len(os.listdir(merged / "cloned" / "new"))


def pip(merged: Path, inputs: Inputs) -> int:
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--root-user-action=ignore"]
    subprocess.run([*command, "--target", merged / "site", inputs.wheel], check=True, capture_output=True)
    return len(os.listdir(merged / "site" / "some"))


def build(merged: Path, inputs: Inputs) -> int:
    subprocess.run(["make", "-s", "-j2"], cwd=merged / "source", check=True)
    return len(os.listdir(merged / "source"))


def sqlite(merged: Path, inputs: Inputs) -> int:
    """Transactions with a rollback journal, which is made, synced and removed each time."""
    connection = sqlite3.connect(merged / "db")
    connection.execute("create table numbers (n integer)")
    for number in range(inputs.files // 50):
        with connection:
            connection.execute("insert into numbers values (?)", (number,))
    (count,) = connection.execute("select count(*) from numbers").fetchone()
    connection.close()
    return int(count)


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


def read_random(merged: Path, inputs: Inputs) -> int:
    """4 KiB here and there."""
    choose = random.Random(0)
    fd = os.open(merged / "big", os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    total = sum(len(os.pread(fd, 4096, choose.randrange(inputs.big // 4096) * 4096)) for _ in range(inputs.files))
    os.close(fd)
    return total


def read_mapped(merged: Path, inputs: Inputs) -> int:
    with open(merged / "big", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
        return sum(mapping[at] >= 0 for at in range(0, len(mapping), 4096))


def read_direct(merged: Path, inputs: Inputs) -> int:
    total, block = 0, mmap.mmap(-1, MIB)
    fd = os.open(merged / "big", os.O_RDONLY | os.O_DIRECT)
    while count := os.readv(fd, [block]):
        total += count
    os.close(fd)
    return total


def write_synced(merged: Path, inputs: Inputs) -> int:
    """4 KiB, and fsync."""
    fd = os.open(merged / "synced", os.O_WRONLY | os.O_CREAT, 0o644)
    for number in range(inputs.files // 50):
        os.pwrite(fd, b"x" * 4096, number * 4096)
        os.fsync(fd)
    os.close(fd)
    return os.stat(merged / "synced").st_size


def append_each(merged: Path, inputs: Inputs, directory: str) -> int:
    total = 0
    for name in sorted(os.listdir(merged / directory)):
        fd = os.open(f"{merged}/{directory}/{name}", os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"!")
        total += os.fstat(fd).st_size
        os.close(fd)
    return total


def append_small(merged: Path, inputs: Inputs) -> int:
    return sum(append_each(merged, inputs, f"tree/{number:02}") for number in range(10))


def append_middling(merged: Path, inputs: Inputs) -> int:
    return append_each(merged, inputs, "middling")


def list_many(merged: Path, inputs: Inputs) -> int:
    return len(os.listdir(merged / "listing"))


def stat_stack(merged: Path, inputs: Inputs) -> int:
    """Each file of the layers, wherever it is, and a name that none has."""
    found = 0
    for number in range(4):
        for name in os.listdir(f"{merged}/dir{number}"):
            found += os.path.exists(f"{merged}/dir{number}/{name}") - os.path.exists(
                f"{merged}/dir{number}/no{name}"
            )
    return found


def stat_clients(merged: Path, inputs: Inputs) -> int:
    """Four processes at once, each with its part of the names."""
    children = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            found = sum(os.stat(f"{merged}/{name}").st_size for name in inputs.names[number::4])
            os._exit(found != len(inputs.names[number::4]) * 4096)
        children.append(pid)
    return sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children)


def started(merged: Path, inputs: Inputs) -> int:
    """Nothing: what is timed is the mount."""
    return 0


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
    Workload("start", "exec to a mount that answers", nothing, started, start=True),
    Workload("list", "listing of 100,000 names", listing, list_many),
    Workload("clients", "stat of each file, four clients", tree, stat_clients),
    Workload("layers-1", "stat in 1 layer", stack, stat_stack, lowers=1),
    Workload("layers-10", "stat in 10 layers", stack, stat_stack, lowers=10),
    Workload("layers-100", "stat in 100 layers", stack, stat_stack, lowers=100),
    Workload("layers-500", "stat in 500 layers", stack, stat_stack, lowers=500),
    Workload("clone", "git clone", repository, clone),
    Workload("pip", "pip install of 1,000 modules", wheel, pip),
    Workload("make", "make -j2 of 100 files of C", sources, build),
    Workload("sqlite", "sqlite transactions", nothing, sqlite),
    Workload("read-random", "random reads of 4 KiB, cold", big, read_random),
    Workload("read-mapped", "mapped read, cold", big, read_mapped),
    Workload("read-direct", "direct read", big, read_direct),
    Workload("write-synced", "writes of 4 KiB with fsync", nothing, write_synced),
    Workload("copy-up-small", "copy-up of 1,000 files of 4 KiB", tree, append_small),
    Workload("copy-up-middling", "copy-up of 100 files of 1 MiB", middling, append_middling),
)

DATA = frozenset(
    ("read-big", "read-random", "read-mapped", "read-direct", "write-big", "write-small", "write-synced", "sqlite")
)
"""Those that are about data more than about names."""
