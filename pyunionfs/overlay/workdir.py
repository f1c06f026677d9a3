"""The work directory: build aside, then rename into place.

Whatever appears in the upper directory in more than one step is made here first, under a temporary name or without
one, so that a crash leaves the old view or the new one. At mount, what an earlier crash left is removed. The form
is the kernel's: ``WORK/work``, temporary names ``#<hex>`` (ovl_workdir_create, ovl_workdir_cleanup).

A union has its upper and work directories for itself: both are locked with flock(2), which ends with the
process however it dies.
"""

import errno
import fcntl
import itertools
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .. import linux
from . import marks
from .backing import Backing

log = logging.getLogger(__name__)

LOCK_WAIT = 3.0  # seconds: a predecessor that is being unmounted needs a moment to end
_WORK = b"work"
_WHITEOUT = b"#wh"
_NOTE = b"#mode"
_NOTE_MAX = 4096  # bytes of a symlink (PATH_MAX)
_NEEDED = {stat.S_IFDIR: 0o300, stat.S_IFREG: 0o600}
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def lock_directory(path: bytes, fd: int, what: str) -> int:
    """Lock a directory for this process; returns the descriptor that holds the lock.

    A lock that somebody holds is waited for, up to LOCK_WAIT. Raises OSError(EBUSY).
    """
    locked = os.open(b"/proc/self/fd/%d" % fd, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + LOCK_WAIT
    while True:
        try:
            fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return locked
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(locked)
                raise OSError(
                    errno.EBUSY, f"{what} directory {os.fsdecode(path)} is in use by another mount"
                ) from None
            time.sleep(0.02)


class Workdir:
    """The directory ``WORK/work`` of a mount."""

    def __init__(self, directory: Backing) -> None:
        self._dir = directory
        self._serial = itertools.count()
        self._have_whiteout = False
        self._makes_nameless = True

    @classmethod
    def prepare(cls, work: Backing, *, volatile: bool = False) -> "Workdir":
        """Make ``work`` anew in the work directory; if ``volatile``, with a mark that refuses the next mount.

        Raises OSError(EINVAL) if an earlier mount was volatile and its upper may have lost data.
        """
        _refuse_volatile(work.fd)
        left = work.child(_WORK)
        _take_back(left)
        left.drop()
        remove_tree(work, _WORK)  # whoever made it: what we build in must be ours alone
        os.mkdir(_WORK, 0o700, dir_fd=work.fd)
        made = cls.adopt(work)
        if volatile:  # ovl_create_volatile_dirty
            fd = made._dir.fd
            os.mkdir(b"incompat", 0o700, dir_fd=fd)
            os.mkdir(b"incompat/volatile", 0o700, dir_fd=fd)
            os.mknod(b"incompat/volatile/dirty", stat.S_IFREG | 0o600, dir_fd=fd)
        return made

    @classmethod
    def adopt(cls, work: Backing) -> "Workdir":
        """Take ``work`` as another process has it: with what that one has made and not put in place."""
        directory = work.child(_WORK)
        directory.parent, directory.fd = None, os.open(_WORK, _OPEN_DIRECTORY, dir_fd=work.fd)
        return cls(directory)

    def clear(self) -> None:
        """Remove what a process has left that died, as the next mount would."""
        _take_back(self._dir)
        for entry in self._dir.scan():
            if entry.name.startswith(b"#"):
                remove_tree(self._dir, entry.name)

    def keeps_xattrs(self, namespace: marks.Namespace) -> bool:
        """Whether the filesystem can keep marks (ovl_make_workdir tries it likewise)."""
        try:
            self._dir.setxattr(namespace.opaque, b"0")
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                raise
            return False
        self._dir.removexattr(namespace.opaque)
        return True

    def close(self) -> None:
        """Leave nothing behind."""
        with suppress(FileNotFoundError):  # of ours, or of a process that served this union
            os.unlink(_WHITEOUT, dir_fd=self._dir.fd)
        os.close(self._dir.fd)

    @contextmanager
    def temp(self) -> Iterator[Backing]:
        """A new temporary name. What was made under it and not installed is removed at the end."""
        temp = self._dir.child(b"#%x" % next(self._serial))
        name = temp.name
        try:
            yield temp
        finally:
            if temp.parent is self._dir or temp.parent is None:
                clear_away(self._dir, name)

    @contextmanager
    def temp_file(self) -> Iterator[tuple[Backing, int]]:
        """A new file, open for reading and writing: without any name where the filesystem can make such, which has
        less to write for an fsync (ovl_copy_up_tmpfile), otherwise under a temporary one. The descriptor is
        the caller's to close; the Backing goes by it until then (``open_fd``).
        """
        fd = self._nameless()
        if fd >= 0:
            temp = Backing(self._dir.layer, None, b"")
            temp.open_fd = fd
            yield temp, fd
            return
        with self.temp() as temp:
            dir_fd, name = temp.at()
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=dir_fd)
            temp.open_fd = fd
            yield temp, fd

    def _nameless(self) -> int:
        if self._makes_nameless:
            try:
                return os.open(b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self._dir.fd)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._makes_nameless = False
        return -1

    def install(self, temp: Backing, parent: Backing, name: bytes, flags: int = 0) -> None:
        """Rename a temporary object into place, or link one that has no name; it becomes the Backing of that place.

        With RENAME_EXCHANGE what was there takes the temporary name and is removed.
        """
        aside, aside_name = temp.parent, temp.name
        if aside is None:
            self._link(temp, parent, name)
            return
        try:
            _rename(temp, parent, name, flags)
        except PermissionError:
            # The caller writes to an object: not to the directories above it, nor to one that is moved.
            place = parent.child(name)
            with self.opened_up(parent), self.opened_up(temp, place.path()), self.opened_up(place):
                _rename(temp, parent, name, flags)
        if flags & linux.RENAME_EXCHANGE:
            clear_away(aside, aside_name)

    def _link(self, temp: Backing, parent: Backing, name: bytes) -> None:
        source = b"/proc/self/fd/%d" % temp.open_fd
        try:
            os.link(source, name, dst_dir_fd=parent.dir_fd())
        except PermissionError:  # as above
            with self.opened_up(parent):
                os.link(source, name, dst_dir_fd=parent.dir_fd())
        temp.parent, temp.name = parent, name

    def discard(self, parent: Backing, name: bytes) -> None:
        """Take an upper object away in one step, then remove what it holds."""
        with self.temp() as temp, self.opened_up(parent.child(name)):
            dir_fd, temp_name = temp.at()
            os.rename(name, temp_name, src_dir_fd=parent.dir_fd(), dst_dir_fd=dir_fd)

    def whiteout(self, parent: Backing, name: bytes, *, replace: bool, directory: bool = False) -> None:
        """Put a whiteout at a name of the upper directory.

        ``replace`` says that an upper object is there to be replaced, ``directory`` that it is a directory.
        """
        if not replace:
            self._link_whiteout(parent.dir_fd(), name)
            return
        with self.temp() as temp:
            self._link_whiteout(*temp.at())
            self.install(temp, parent, name, linux.RENAME_EXCHANGE if directory else 0)

    def mark(self, backing: Backing, xattr: str, value: bytes) -> None:
        """Set an xattr of an object of ours, also where its mode forbids that."""
        try:
            backing.setxattr(xattr, value)
        except PermissionError:
            with self.opened_up(backing):
                backing.setxattr(xattr, value)

    @contextmanager
    def opened_up(self, backing: Backing, path: bytes | None = None) -> Iterator[None]:
        """For the length of a ``with``, give an object of ours the permissions that its mode keeps from us.

        Root needs none of this. ``path`` is where the object will be then, below the upper directory. It is noted
        first, with the mode: if we die meanwhile, the next mount takes them back (:func:`_take_back`). A symlink is
        the note, for it comes about whole.
        """
        if os.geteuid() == 0:
            yield
            return
        try:
            fd = backing.hold()
        except FileNotFoundError:
            yield
            return
        try:
            with self._opened_up(fd, backing.path() if path is None else path):
                yield
        finally:
            os.close(fd)

    @contextmanager
    def _opened_up(self, fd: int, path: bytes) -> Iterator[None]:
        """The descriptor stays with the object, and needs no other one to close it again."""
        st, itself = os.fstat(fd), b"/proc/self/fd/%d" % fd
        mode = stat.S_IMODE(st.st_mode)
        added = _NEEDED.get(stat.S_IFMT(st.st_mode), 0) & ~mode
        if not added or st.st_uid != os.geteuid():
            yield
            return
        note, text = b"%s%x" % (_NOTE, next(self._serial)), b"%o %o %d /%s" % (mode, added, st.st_ino, path)
        if len(text) < _NOTE_MAX:
            os.symlink(text, note, dir_fd=self._dir.fd)
        try:
            os.chmod(itself, mode | added)
            yield
        finally:
            try:
                os.chmod(itself, mode)
            except OSError as error:  # what has been done is done
                log.warning("%s has too many permissions until the next mount: %s", os.fsdecode(path), error)
            else:
                clear_away(self._dir, note)

    def _link_whiteout(self, dir_fd: int, name: bytes) -> None:
        """All whiteouts are links of one inode, as in the kernel (ovl_whiteout)."""
        if not self._have_whiteout:
            marks.make_whiteout(self._dir.fd, _WHITEOUT)
            self._have_whiteout = True
        try:
            os.link(_WHITEOUT, name, src_dir_fd=self._dir.fd, dst_dir_fd=dir_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP):
                raise
            if error.errno == errno.EMLINK:
                os.unlink(_WHITEOUT, dir_fd=self._dir.fd)
                self._have_whiteout = False
            marks.make_whiteout(dir_fd, name)


def name_union(upper: Backing, namespace: marks.Namespace, mode: str) -> None:
    """Give a union its UUID, kept in the upper directory (``uuid=``, ovl_init_uuid_xattr)."""
    if mode in ("off", "null") or upper.find_xattr(namespace.uuid) is not None:
        return
    if mode == "auto" and upper.find_xattr(namespace.impure) is not None:
        return  # of a time when unions had none
    upper.setxattr(namespace.uuid, os.urandom(16))


def _refuse_volatile(work_fd: int) -> None:
    try:
        fd = os.open(_WORK, _OPEN_DIRECTORY, dir_fd=work_fd)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if os.fstat(fd).st_uid == os.geteuid():
            os.chmod(b"/proc/self/fd/%d" % fd, 0o700)  # the kernel makes it with no permissions at all
        os.stat(b"incompat", dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    finally:
        os.close(fd)
    raise OSError(errno.EINVAL, "the upper directory was mounted volatile and may have lost data")


def _rename(temp: Backing, parent: Backing, name: bytes, flags: int) -> None:
    (dir_fd, temp_name), target = temp.at(), parent.dir_fd()
    if flags:
        linux.renameat2(dir_fd, temp_name, target, name, flags)
    else:
        os.rename(temp_name, name, src_dir_fd=dir_fd, dst_dir_fd=target)
    temp.parent, temp.name = parent, name


def _take_back(directory: Backing) -> None:
    """Take back the permissions that a predecessor had added for a moment, when it died.

    A note can do no more than that, whoever wrote it: take some away from what is ours, and nothing of root's.
    """
    if os.geteuid() == 0:
        return
    try:
        notes = [entry.name for entry in directory.scan() if entry.name.startswith(_NOTE)]
    except OSError:
        return
    for note in notes:
        with suppress(OSError, ValueError):  # it is there no more, or this is no note of ours
            before, added, ino, path = directory.child(note).readlink().split(b" ", 3)
            backing, bits = directory.layer.root, int(added, 8) & 0o700
            names = [name for name in path.split(b"/") if name]
            if b".." in names:
                continue
            for name in names:
                backing = backing.child(name)
            st = backing.stat()
            mode = stat.S_IMODE(st.st_mode)
            noted = (int(before, 8) | bits, int(ino), os.geteuid())
            if (mode, st.st_ino, st.st_uid) == noted and not stat.S_ISLNK(st.st_mode):
                backing.chmod(mode & ~bits)


def clear_away(parent: Backing, name: bytes) -> None:
    """Remove what was replaced, or never published. What has been done is done: a failure is not the caller's, and
    the next mount removes what is left (ovl_cleanup)."""
    try:
        remove_tree(parent, name)
    except OSError as error:
        log.warning("%s stays behind: %s", os.fsdecode(name), error)


def remove_tree(parent: Backing, name: bytes) -> None:
    """Remove whatever is at a name, if anything, however deep; mode bits of directories of ours do not stop it."""
    stack = [parent.child(name)]
    while stack:
        node = stack[-1]
        dir_fd, at = node.at()
        try:
            os.unlink(at, dir_fd=dir_fd)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            if inside := _empty(node, dir_fd):
                stack += inside
                continue
        stack.pop()


def _empty(directory: Backing, dir_fd: int) -> list[Backing]:
    """Remove a directory if it is empty; otherwise returns what is in it."""
    try:
        os.rmdir(directory.name, dir_fd=dir_fd)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
    else:
        directory.drop()
        return []
    st = directory.stat()
    if st.st_mode & 0o700 != 0o700 and st.st_uid == os.geteuid() != 0:  # who holds it open sees its mode
        directory.chmod(0o700)
    return [directory.child(entry.name) for entry in directory.scan()]
