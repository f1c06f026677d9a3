"""Changing a directory tree that a stranger's entries build, without ever leaving it.

Every step goes from one directory descriptor to the next with O_NOFOLLOW, so a symlink is never followed,
whatever was put in place before. What stands where a directory is needed gives way to a real one. The tree
is private while it is built: nobody else changes it meanwhile.
"""

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType

from pyunionfs.image.names import base, parent

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT_OPEN = 64  # descriptors; tars list a directory's files together, so a few hit nearly always


class Tree:
    """A tree under construction at ``root``, and ``trash`` beside it, where what was replaced goes.

    ``on_create`` hears of each directory that is made, so that its owner, mode and times can be set when
    all is in place.
    """

    def __init__(self, root: str, trash: str, on_create: Callable[[bytes], None]) -> None:
        self._root = os.open(root, _OPEN_DIR)
        self._trash = os.open(trash, _OPEN_DIR)
        self._trashed = 0
        self._on_create = on_create
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def __enter__(self) -> "Tree":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in (*self._open.values(), self._root, self._trash):
            os.close(fd)
        self._open.clear()

    def directory(self, path: bytes) -> int:
        """A descriptor of the directory ``path``, made if it is not there; valid until the next call."""
        fd = self._walk(path, create=True)
        assert fd is not None
        return fd

    def find_directory(self, path: bytes) -> int | None:
        """As :meth:`directory`, but None where there is no such directory."""
        return self._walk(path, create=False)

    def status(self, path: bytes) -> os.stat_result | None:
        """lstat(2) of a path; None where it, or a directory above it, is not there."""
        fd = self.find_directory(parent(path))
        if fd is None:
            return None
        try:
            return os.stat(base(path) or b".", dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def vacate(self, path: bytes) -> int:
        """Room for a file at ``path``: make its parents, remove what is there; the parent's descriptor."""
        fd = self.directory(parent(path))
        try:
            os.unlink(base(path), dir_fd=fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EPERM):
                raise
            self._discard(path, fd)
        return fd

    def _discard(self, path: bytes, parent_fd: int) -> None:
        """Move a directory out of the tree; constant time, whatever is in it."""
        for known in [p for p in self._open if p == path or p.startswith(path + b"/")]:
            os.close(self._open.pop(known))
        self._trashed += 1
        os.rename(base(path), b"%d" % self._trashed, src_dir_fd=parent_fd, dst_dir_fd=self._trash)

    def _walk(self, path: bytes, *, create: bool) -> int | None:
        known = path
        while known and known not in self._open:
            known = parent(known)
        fd = self._open[known] if known else self._root
        if known:
            self._open.move_to_end(known)
        for name in path[len(known) :].split(b"/"):
            if name:
                known = known + b"/" + name if known else name
                below = self._step(fd, name, known, create=create)
                if below is None:
                    return None
                fd = below
                self._keep(known, fd)
        return fd

    def _step(self, fd: int, name: bytes, path: bytes, *, create: bool) -> int | None:
        try:
            return os.open(name, _OPEN_DIR, dir_fd=fd)
        except FileNotFoundError:
            if not create:
                return None
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            if not create:
                return None
            os.unlink(name, dir_fd=fd)
        os.mkdir(name, 0o700, dir_fd=fd)
        self._on_create(path)
        return os.open(name, _OPEN_DIR, dir_fd=fd)

    def _keep(self, path: bytes, fd: int) -> None:
        self._open[path] = fd
        while len(self._open) > _KEPT_OPEN:
            os.close(self._open.popitem(last=False)[1])


def remove_tree(path: str) -> None:
    """Delete a directory and all below it, of any depth, with two descriptors and without following symlinks.

    Directories found inside are first moved to the top, so nothing is ever more than one level deep. Modes
    that forbid an ordinary user to look inside are changed on the way. What vanishes meanwhile is no error.
    """
    try:
        top = os.open(path, _OPEN_DIR)
    except FileNotFoundError:
        return
    try:
        _empty(top)
    finally:
        os.close(top)
    os.rmdir(path)


def _empty(top: int) -> None:
    _make_accessible(b".", top)
    moved = 0
    pending = _unlink_files(top)
    while pending:
        name = pending.pop()
        _make_accessible(name, top)
        fd = os.open(name, _OPEN_DIR, dir_fd=top)
        try:
            for inner in _unlink_files(fd):
                _make_accessible(inner, fd)
                moved += 1
                flat = b"%d.%d" % (os.getpid(), moved)
                while _exists(flat, top):
                    flat += b"x"
                os.rename(inner, flat, src_dir_fd=fd, dst_dir_fd=top)
                pending.append(flat)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=top)


def _exists(name: bytes, dir_fd: int) -> bool:
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _make_accessible(name: bytes, dir_fd: int) -> None:
    """Let the owner read, change and enter a directory; ``name`` was just seen to be one."""
    mode = os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode
    if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
        os.chmod(name, 0o700, dir_fd=dir_fd)


def _unlink_files(fd: int) -> list[bytes]:
    """Unlink all that is no directory; the names of the directories."""
    with os.scandir(fd) as listing:
        entries = [(os.fsencode(item.name), item.is_dir(follow_symlinks=False)) for item in listing]
    for name, is_dir in entries:
        if not is_dir:
            os.unlink(name, dir_fd=fd)
    return [name for name, is_dir in entries if is_dir]
