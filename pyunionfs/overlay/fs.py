"""The union filesystem as :class:`vfs.Operations`: one short method a request, each leading to its verb.

Everything that touches names runs under the namespace lock. What may copy a file's data runs before it,
because the order of locks is: an inode's copy lock, then the namespace lock.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property

from .. import linux
from ..vfs import Attr, Caller, Change, DirEntry, Extent, Ino, SetAttr, Statfs, WouldWaitError
from . import ahead, attr, create, file, held, marks, readdir, remove, rename, xattrs
from . import flags as inode_flags
from . import refresh as again
from .copy_up import copy_up
from .index import must_copy_up
from .inode import Inode
from .lookup import directories_of, find, look
from .union import Union

_SLOW_COPY = 256 << 10  # bytes; copying less takes no longer than many other requests


class Overlay(Union):
    """A union of directories, usable in process or by a transport.

    ``lower`` are the read-only layers, top to bottom; ``upper`` takes the changes, and without it the union
    is read-only (EROFS); ``work`` is a directory on the filesystem of ``upper``, by default a hidden sibling
    of it. ``data`` are data-only layers, which hold the data of metacopies and show no names of their own.
    ``options`` are mount options by their kernel names (:mod:`pyunionfs.overlay.params`). ``adopt`` are the
    :attr:`locks` of a process that this one goes on for: the work directory stays as that one has it.

    Raises ``OSError`` with a sentence: ENOENT, ENOTDIR, ELOOP, EINVAL or EBUSY (:mod:`.super`).
    """

    @cached_property
    def _data(self) -> ahead.Data:
        return ahead.Data(self.sb)

    # -- finding ---------------------------------------------------------------------------------------

    def lookup(self, parent: Ino, name: bytes) -> Attr:
        with self.sb.lock:
            directory = self.sb.table[parent]
            found = look(self.sb, directory, name)
            if directory.listing is None:
                self._note_probes(directory, found)
            if found is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            return self._hold(*found)

    def forget(self, ino: Ino, count: int) -> None:
        with self.sb.lock:
            remove.release(self.sb, self.sb.table[ino], count)

    def parent(self, ino: Ino) -> Ino:
        parent = self.sb.table[ino].parent
        return parent.ino if parent is not None else ino

    def readdir(self, ino: Ino, after: int = 0, count: int | None = None) -> Sequence[DirEntry]:
        with self.sb.lock:
            if self.sb.params.posix:
                attr.note_read(self.sb.table[ino])
            return readdir.readdir(self.sb, self.sb.table[ino], after, count)

    def _note_probes(self, directory: Inode, found: tuple[Inode, os.stat_result | None] | None) -> None:
        """Layers above the one that has it were asked in vain; all of them, if none has it."""
        if found is not None and found[0].real.layer is directory.real.layer:
            return
        first = found[0].real.layer.index if found is not None else len(self.sb.layers)
        above = sum(backing.layer.index < first for backing in directories_of(directory))
        readdir.note_probes(self.sb, directory, above)

    def readdirplus(
        self, ino: Ino, after: int, count: int, *, bare: bool = False
    ) -> Sequence[tuple[DirEntry, Attr | None]]:
        with self.sb.lock:
            directory = self.sb.table[ino]
            found: list[tuple[DirEntry, Attr | None]] = []
            for entry in self.readdir(ino, after, count):
                if bare and entry.st_ino:
                    found.append((entry, None))
                    continue
                try:
                    child = look(self.sb, directory, entry.name)
                    if child is not None:  # or gone behind our back, or another filesystem is mounted there
                        found.append((entry, self._hold(*child)))
                except FileNotFoundError:
                    pass
                except OSError:
                    found.append((entry, None))  # who asks for it by name is told why
            return found

    def ahead(self, ino: Ino, *, keep: bool = True) -> Iterator[None]:
        return ahead.ahead(self.sb, ino, keep=keep)

    def data_ahead(self, ino: Ino) -> Iterator[None]:
        return self._data.ahead(ino)

    def _hold(self, inode: Inode, st: os.stat_result | None = None) -> Attr:
        attributes = attr.getattr(self.sb, inode, st)
        inode.lookups += 1
        if (journal := self.sb.journal) is not None:
            if inode.parent is not None and not inode.unlinked:
                journal.note_named(
                    inode.ino, inode.lookups, inode.opens, inode.parent.ino, inode.name, attributes.st_ino
                )
            else:
                held.note(self.sb, inode)
        return attributes

    # -- attributes ------------------------------------------------------------------------------------

    def getattr(self, ino: Ino) -> Attr:
        with self.sb.lock:
            return attr.getattr(self.sb, self.sb.table[ino])

    def setattr(self, ino: Ino, changes: SetAttr, caller: Caller) -> Attr:
        inode = self.sb.table[ino]
        # Any other size than none needs all data there first: truncating may fail, as ftruncate(2) may.
        size = 0 if changes.size == 0 else None
        copy_up(self.sb, inode, data=changes.size is not None, size=size)
        # Who completes a metacopy puts its times back at the end, and must not take back this change with them.
        with self.sb.copying(inode) if inode.metacopy else nullcontext(), self.sb.lock:
            attr.setattr(self.sb, inode, changes)
            return attr.getattr(self.sb, inode)

    def readlink(self, ino: Ino) -> bytes:
        with self.sb.lock:
            return self.sb.table[ino].real.readlink()

    def statfs(self) -> Statfs:
        return attr.statfs(self.sb)

    def getxattr(self, ino: Ino, name: bytes) -> bytes:
        return xattrs.get(self.sb, self.sb.table[ino], os.fsdecode(name))

    def setxattr(self, ino: Ino, name: bytes, value: bytes, flags: int) -> None:
        xattrs.set_(self.sb, self.sb.table[ino], os.fsdecode(name), value, flags)

    def listxattr(self, ino: Ino) -> list[bytes]:
        return [os.fsencode(name) for name in xattrs.names(self.sb, self.sb.table[ino])]

    def removexattr(self, ino: Ino, name: bytes) -> None:
        xattrs.remove(self.sb, self.sb.table[ino], os.fsdecode(name))

    # -- names -----------------------------------------------------------------------------------------

    def mknod(self, parent: Ino, name: bytes, mode: int, rdev: int, caller: Caller) -> Attr:
        def make(dir_fd: int, at: bytes, permissions: int) -> None:
            os.mknod(at, stat.S_IFMT(mode) | permissions, rdev, dir_fd=dir_fd)

        if marks.is_whiteout_device(mode, rdev):  # it would hide itself (ovl_mknod)
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), name)
        if stat.S_ISREG(mode):
            return self._create(parent, name, mode, caller)
        with self.sb.lock:
            return self._hold(*create.create(self.sb, self.sb.table[parent], name, mode, caller, make))

    def mkdir(self, parent: Ino, name: bytes, mode: int, caller: Caller) -> Attr:
        def make(dir_fd: int, at: bytes, permissions: int) -> None:
            os.mkdir(at, permissions, dir_fd=dir_fd)

        mode = stat.S_IFDIR | stat.S_IMODE(mode)
        with self.sb.lock:
            return self._hold(*create.create(self.sb, self.sb.table[parent], name, mode, caller, make))

    def symlink(self, parent: Ino, name: bytes, target: bytes, caller: Caller) -> Attr:
        def make(dir_fd: int, at: bytes, permissions: int) -> None:
            os.symlink(target, at, dir_fd=dir_fd)

        mode = stat.S_IFLNK | 0o777
        with self.sb.lock:
            return self._hold(*create.create(self.sb, self.sb.table[parent], name, mode, caller, make))

    def create(self, parent: Ino, name: bytes, mode: int, caller: Caller) -> Attr:
        return self._create(parent, name, mode, caller, opens=1)

    def tmpfile(self, parent: Ino, mode: int, caller: Caller) -> Attr:
        with self.sb.lock:
            return self._hold(
                create.tmpfile(self.sb, self.sb.table[parent], stat.S_IFREG | stat.S_IMODE(mode), caller)
            )

    def _create(self, parent: Ino, name: bytes, mode: int, caller: Caller, *, opens: int = 0) -> Attr:
        """Keeps the descriptor: who makes a file writes to it next."""
        fds: list[int] = []

        def make(dir_fd: int, at: bytes, permissions: int) -> None:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fds.append(os.open(at, flags, permissions, dir_fd=dir_fd))

        mode = stat.S_IFREG | stat.S_IMODE(mode)
        with self.sb.lock:
            try:
                inode, st = create.create(self.sb, self.sb.table[parent], name, mode, caller, make)
            except BaseException:
                for fd in fds:
                    os.close(fd)
                raise
            self.sb.files.put(inode, fds[0], writable=True)
            inode.opens += opens
            return self._hold(inode, st)

    def link(self, ino: Ino, parent: Ino, name: bytes) -> Attr:
        inode = self.sb.table[ino]
        copy_up(self.sb, inode, data=False)
        with self.sb.lock:
            create.link(self.sb, inode, self.sb.table[parent], name)
            return self._hold(inode)

    def unlink(self, parent: Ino, name: bytes) -> None:
        while True:
            with self.sb.lock:
                inode = remove.removable(self.sb, self.sb.table[parent], name)
                if not must_copy_up(self.sb, inode):
                    remove.unlink(self.sb, self.sb.table[parent], name)
                    return
            copy_up(self.sb, inode, data=False)

    def rmdir(self, parent: Ino, name: bytes) -> None:
        with self.sb.lock:
            remove.rmdir(self.sb, self.sb.table[parent], name)

    def rename(self, parent: Ino, name: bytes, new_parent: Ino, new_name: bytes, flags: int) -> None:
        table = self.sb.table
        while True:
            with self.sb.lock:
                old, new = rename.check(self.sb, table[parent], name, table[new_parent], new_name, flags)
                first = [old]
                if new is not None and (flags & rename.EXCHANGE or must_copy_up(self.sb, new)):
                    first.append(new)
                if all(inode.upper is not None for inode in first):
                    rename.rename(self.sb, (table[parent], name, old), (table[new_parent], new_name, new), flags)
                    return
            for inode in first:  # then look again: the names may have changed meanwhile
                copy_up(self.sb, inode, data=False)

    # -- data ------------------------------------------------------------------------------------------

    def open(self, ino: Ino, flags: int, caller: Caller) -> None:
        inode = self.sb.table[ino]
        if flags & file.WRITE_FLAGS:
            truncating = bool(flags & os.O_TRUNC)
            copy_up(self.sb, inode, size=0 if truncating else None)
            if truncating:
                file.truncate(self.sb, inode, 0, kill_suid=caller.uid != 0)
        if not file.MAY_REOPEN_ANYTHING:  # its mode may change while it is open
            with self.sb.files.use(inode, write=bool(flags & os.O_ACCMODE)):
                pass
        with self.sb.lock:
            inode.opens += 1
            held.note(self.sb, inode)

    def release(self, ino: Ino) -> None:
        inode = self.sb.table[ino]
        with self.sb.lock:
            inode.opens -= 1
            held.note(self.sb, inode)

    def read(self, ino: Ino, offset: int, size: int) -> bytes:
        inode = self.sb.table[ino]
        if self.sb.params.posix and inode.upper is None:
            with self.sb.lock:
                attr.note_read(inode)
        return file.read(self.sb, inode, offset, size)

    def readinto(self, ino: Ino, offset: int, buffer: memoryview, *, wait: bool = True) -> int:
        inode = self.sb.table[ino]
        if self.sb.params.posix and inode.upper is None:
            with self.sb.lock:
                attr.note_read(inode)
        return file.readinto(self.sb, inode, offset, buffer, wait=wait)

    def backing(self, ino: Ino) -> int | None:
        inode = self.sb.table[ino]
        with self.sb.lock:
            if inode.upper is None or inode.metacopy:
                return None
            return inode.upper.open(os.O_RDWR)

    def fallocate(self, extent: Extent, mode: int, *, kill_suid: bool) -> None:
        file.fallocate(
            self.sb, self._for_writing(extent.ino), mode, extent.offset, extent.length, kill_suid=kill_suid
        )

    def seek(self, ino: Ino, offset: int, whence: int) -> int:
        return file.seek(self.sb, self.sb.table[ino], offset, whence)

    def copy_file_range(
        self, source: Extent, target: Ino, offset: int, *, kill_suid: bool, wait: bool = True
    ) -> int:
        inode, here = self._for_writing(target, wait=wait), self.sb.table[source.ino]
        return file.copy_range(self.sb, here, source, inode, offset, kill_suid=kill_suid, wait=wait)

    def _for_writing(self, ino: Ino, *, wait: bool = True) -> Inode:
        inode = self.sb.table[ino]
        if not inode.has_upper_data:
            if not wait:
                if self.slow(ino):
                    raise WouldWaitError
                file.need_no_disk(self.sb, inode)
            copy_up(self.sb, inode)
        return inode

    def birth_time(self, ino: Ino) -> int | None:
        with self.sb.lock:
            return linux.birth_time(*self.sb.table[ino].real.at_itself())

    def get_flags(self, ino: Ino, *, extended: bool) -> bytes:
        return inode_flags.get(self.sb, self.sb.table[ino], extended=extended)

    def set_flags(self, ino: Ino, value: bytes, *, extended: bool) -> None:
        inode_flags.set_(self.sb, self.sb.table[ino], value, extended=extended)

    def write(
        self,
        ino: Ino,
        offset: int,
        data: bytes | memoryview,
        *,
        kill_suid: bool,
        sync: bool = False,
        wait: bool = True,
    ) -> int:
        inode = self._for_writing(ino, wait=wait)
        return file.write(self.sb, inode, offset, data, kill_suid=kill_suid, sync=sync)

    def fsync(self, ino: Ino, *, data_only: bool) -> None:
        file.fsync(self.sb, self.sb.table[ino], data_only=data_only)

    def syncfs(self) -> None:
        if self.sb.upper is not None and self.sb.params.syncs:
            linux.syncfs(self.sb.upper.io_fd())

    def slow(self, ino: Ino, name: bytes | None = None, *, removing: bool = False) -> bool:
        if removing and self.sb.index is None:
            return False
        if name is None and self.sb.table[ino].has_upper_data:  # asked at each write
            return False
        with self.sb.lock:
            inode: Inode | None = self.sb.table[ino]
            if name is not None and inode is not None:
                inode = find(self.sb, inode, name)
            if inode is None or inode.has_upper_data or not stat.S_ISREG(inode.type):
                return False
            if removing and not must_copy_up(self.sb, inode):
                return False
            return self.sb.is_copying(inode) or inode.real.stat().st_size > _SLOW_COPY

    def refresh(self) -> list[Change]:
        with self.sb.lock:
            return again.refresh(self.sb)
