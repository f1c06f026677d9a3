"""Changes of every kind to a union, scripted and random, for whoever has it mounted."""

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from syscalls import RENAME_EXCHANGE, renameat2
from trees import Dir, Fifo, File, HardLink, Node, Symlink

from pyunionfs.verify import operations as ops
from pyunionfs.verify import stacks

TOP: dict[str, Node] = {
    "both": {"top": "top", "file": "top", "dir": {"top": "x"}},
    "swap": "file above a directory",
}
BOTTOM: dict[str, Node] = {
    "both": Dir({"bottom": "bottom", "file": "bottom", "dir": {"bottom": "x"}}, 0o750, xattrs={"user.a": b"1"}),
    "swap": {"below": "x"},
    "files": {f"file{number}": File("content", 0o640) for number in range(10)},
    "tree": {"a": {"b": {"c": {"deep": "deep"}}}, "e": {"f": "x"}},
    "gone": {"x": "x", "y": {"z": "z"}},
    "link": Symlink("files/file0"),
    "fifo": Fifo(0o600),
    "suid": File("#!/bin/sh\n", 0o4755, 1000, 1000),
    "one": "linked",
    "two": HardLink("one"),
    "again": {"old": "x", "sub": {"old": "x"}},
}


def change(merged: Path) -> None:
    """One change of each kind."""
    files = merged / "files"
    with open(files / "file0", "ab") as file:
        file.write(b"+appended")
    os.truncate(files / "file1", 3)
    os.chmod(files / "file2", 0o600)
    os.utime(files / "file3", ns=(1, 2))
    os.setxattr(files / "file4", "user.new", b"value")
    os.rename(files / "file5", files / "renamed")
    os.link(files / "file6", merged / "both" / "linked")
    os.unlink(files / "file7")
    os.unlink(files / "file8")
    (files / "file8").write_bytes(b"new object")
    os.rename(files / "renamed", files / "file9")
    os.unlink(merged / "both" / "top")
    os.unlink(merged / "both" / "file")
    (merged / "both" / "dir" / "new").write_bytes(b"")
    os.unlink(merged / "swap")
    os.mkdir(merged / "swap")
    with open(merged / "tree/a/b/c/deep", "ab") as file:
        file.write(b"er")
    os.unlink(merged / "tree/e/f")
    os.rmdir(merged / "tree/e")
    os.symlink("nowhere", merged / "tree/e")
    for name in ("gone/x", "gone/y/z"):
        os.unlink(merged / name)
    os.rmdir(merged / "gone/y")
    os.rmdir(merged / "gone")
    os.unlink(merged / "link")
    os.mkfifo(merged / "link")
    os.chmod(merged / "fifo", 0o644)
    os.chmod(merged / "suid", 0o4711)
    with open(merged / "one", "ab") as file:
        file.write(b"+")
    os.unlink(merged / "again/old")
    os.unlink(merged / "again/sub/old")
    os.rmdir(merged / "again/sub")
    os.rmdir(merged / "again")
    os.makedirs(merged / "again/sub")
    (merged / "again/new").write_bytes(b"new")
    os.makedirs(merged / "new/dir")
    os.rename(merged / "new", merged / "moved")
    os.mkdir(merged / "both" / "pure", 0o700)
    renameat2(merged / "moved", merged / "fifo", RENAME_EXCHANGE)


def random_operation(choices: random.Random) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """An operation of those of ``pyunionfs.verify``, and its arguments."""

    def path() -> str:
        return "/".join(choices.choices(stacks.NAMES, k=choices.randint(1, stacks.DEPTH)))

    makers: list[Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]] = [
        lambda: (ops.write, (path(), os.O_WRONLY | os.O_CREAT, b"new", None)),
        lambda: (ops.write, (path(), os.O_WRONLY | os.O_APPEND, b"more", None)),
        lambda: (ops.truncate, (path(), 3)),
        lambda: (ops.mkdir, (path(), 0o755)),
        lambda: (ops.rmdir, (path(),)),
        lambda: (ops.unlink, (path(),)),
        lambda: (ops.remove_tree, (path(),)),
        lambda: (ops.rename, (path(), path(), choices.choice((0, 0, 1, 2)))),
        lambda: (ops.link, (path(), path(), False)),
        lambda: (ops.symlink, ("a", path())),
        lambda: (ops.mknod, (path(), (stat.S_IFIFO | 0o644, 0))),
        lambda: (ops.mknod, (path(), (stat.S_IFSOCK | 0o644, 0))),
        lambda: (ops.chmod, (path(), 0o700)),
        lambda: (ops.chown, (path(), 1001, 1001)),
        lambda: (ops.utime, (path(), (12345, 0), (12345, 0))),
        lambda: (ops.setxattr, (path(), "user.b", b"new", 0)),
    ]
    return choices.choice(makers)()


def change_at_random(merged: Path, choices: random.Random, steps: int) -> list[str]:
    """Random changes below ``r``; returns what was done, and the outcome of each."""
    told = []
    here = os.getcwd()
    os.chdir(merged / "r")
    try:
        for _ in range(steps):
            operation, arguments = random_operation(choices)
            told.append(f"{operation.__name__}{arguments}  # {ops.outcome(operation, arguments, 0)}")
    finally:
        os.chdir(here)
    return told
