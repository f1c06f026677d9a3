"""Making things aside and putting them in place in one step: temporary directories, locks, atomic files.

A temporary directory is locked (flock(2)) by who works in it, and its name is the name of the work: two who
want to do the same wait for each other, and one that nobody holds was left by a process that died.
"""

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pyunionfs import linux
from pyunionfs.image.tree import remove_tree

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def locked(path: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold a lock file, made if need be; waits. The lock dies with the process."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


@contextmanager
def workspace(path: Path, *, done: Callable[[], bool]) -> Iterator[Path | None]:
    """An empty directory at ``path`` that no other process works in, removed at the end if still there.

    None when ``done()``, asked with the lock held, says that there is no work (any more): another process
    may have finished it while this one waited.
    """
    fd = _locked_directory(path)
    try:
        try:
            yield None if done() else _emptied(path)
        finally:
            if _is_at(fd, path):
                remove_tree(os.fspath(path))
    finally:
        os.close(fd)


def _emptied(path: Path) -> Path:
    with os.scandir(path) as entries:
        leftovers = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_dir in leftovers:
        if is_dir:
            remove_tree(name)
        else:
            os.unlink(name)
    return path


def _locked_directory(path: Path) -> int:
    while True:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        try:
            fd = os.open(path, _OPEN_DIR)
        except FileNotFoundError:
            continue  # put in place just now by its worker
        fcntl.flock(fd, fcntl.LOCK_EX)
        if _is_at(fd, path):
            return fd
        os.close(fd)  # its worker put it in place, or removed it, while we waited


def _is_at(fd: int, path: Path) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(fd))


def sweep(directory: Path) -> None:
    """Remove the temporary directories of processes that are no more."""
    for path in abandoned(directory):
        remove_tree(os.fspath(path))


def abandoned(directory: Path) -> Iterator[Path]:
    """The temporary directories that no process works in, and none begins to while each is looked at."""
    fd = os.open(directory, _OPEN_DIR)  # and not where a symlink leads
    try:
        with os.scandir(fd) as entries:
            paths = [directory / entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    finally:
        os.close(fd)
    for path in paths:
        try:
            fd = os.open(path, _OPEN_DIR)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, path):
                yield path
        except BlockingIOError:
            pass  # at work
        finally:
            os.close(fd)


def discard(temporary: Path, directory: Path) -> None:
    """Take a directory away in one step, then delete it; a crash in between leaves it to the next sweep of the
    directory ``temporary``, which must be on the same filesystem."""
    temporary.mkdir(mode=0o700, exist_ok=True)
    doomed = temporary / f"removed-{os.getpid()}-{directory.name}"
    os.rename(directory, doomed)
    remove_tree(os.fspath(doomed))


def own_directories(directory: Path, name: re.Pattern[str]) -> set[Path]:
    """The directories of such names in a directory; whatever else is there is not ours, and left alone."""
    if not directory.is_dir():
        return set()
    with os.scandir(directory) as entries:
        return {Path(e.path) for e in entries if name.fullmatch(e.name) and e.is_dir(follow_symlinks=False)}


def is_held(directory: Path) -> bool:
    """Whether someone holds a shared or exclusive lock on a directory."""
    fd = os.open(directory, _OPEN_DIR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def hold(directory: Path) -> int:
    """Take a shared lock on a directory for as long as the returned descriptor is open."""
    fd = os.open(directory, _OPEN_DIR)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that readers, and we after a crash, see the old content or the new, never a mixture."""
    with replacing(path, mode=0o600) as file:
        file.write(data)


@contextmanager
def replacing(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when all has gone well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            os.fsync(fd)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def to_json(value: Any) -> bytes:
    """JSON that a person can read too."""
    return json.dumps(value, indent=2, ensure_ascii=True).encode() + b"\n"


def sync_directory(path: Path) -> None:
    """Make the names in a directory last: fsync(2)."""
    fd = os.open(path, _OPEN_DIR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_filesystem(path: Path) -> None:
    """Write out all that was written to the filesystem of ``path``: syncfs(2)."""
    fd = os.open(path, _OPEN_DIR)
    try:
        linux.syncfs(fd)
    finally:
        os.close(fd)
