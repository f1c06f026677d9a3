"""The pyfuse3 transport: libfuse's requests, served by a ``vfs.Operations`` under trio.

Only adapters live here: each handler converts arguments, calls one operation and converts the answer. One
decorator translates errors: an ``OSError`` becomes its errno, anything else is a bug, which is logged with
its traceback and answered with EIO while the mount lives on.

What pyfuse3 cannot do is listed in the README ("Limits of the pyfuse3 transport"). One of them shapes this
module: it sends one number as both the kernel's handle and the ``st_ino`` that people see. Where these two
differ (``vfs.Ino``), an entry is sent with attributes that are stale at once, so that the kernel asks again,
and gets the right number, before it shows them.
"""

import contextlib
import errno
import functools
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Set
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields, StatvfsData

from .. import vfs
from ..vfs import Attr, Caller, Ino
from .attach import mount_directly
from .handing import Successor
from .mount import INFO_XATTR, REFRESH_XATTR, Info
from .options import TransportOptions

log = logging.getLogger(__name__)

FOREVER = 10.0 * 365 * 86400
"""Seconds that the kernel may keep what it was told: the union changes only through us."""

P = ParamSpec("P")
R = TypeVar("R")
_INFO_XATTR = INFO_XATTR.encode()
_REFRESH_XATTR = REFRESH_XATTR.encode()


def _handler(
    method: Callable[Concatenate["Adapter", P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate["Adapter", P], Coroutine[Any, Any, R]]:
    """The one translator of errors."""

    @functools.wraps(method)
    async def call(self: "Adapter", /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await method(self, *args, **kwargs)
        except FUSEError:
            raise
        except OSError as error:
            if error.errno == errno.EIO:
                log.warning("%s%r: %s", method.__name__, args, error)
            raise FUSEError(error.errno or errno.EIO) from None
        except Exception:
            log.exception("bug in %s%r", method.__name__, args)
            raise FUSEError(errno.EIO) from None

    return call


class _Handle:
    """An open file or directory. Files are read and written by inode; a directory keeps its listing."""

    __slots__ = ("entries", "ino", "kill_suid", "sync")

    def __init__(self, ino: Ino, *, kill_suid: bool = False, sync: bool = False) -> None:
        self.ino = ino
        self.kill_suid = kill_suid
        self.sync = sync
        self.entries: list[bytes] | None = None


class Adapter(pyfuse3.Operations):
    """``pyfuse3.Operations`` on top of ``vfs.Operations``."""

    supports_dot_lookup = False
    enable_acl = True
    enable_writeback_cache = False

    def __init__(self, operations: vfs.Operations, info: Info, on_ready: Callable[[], None]) -> None:
        super().__init__()
        self._ops = operations
        self._info = info
        self._on_ready = on_ready
        self._handles: dict[int, _Handle] = {}
        self._next_handle = 0
        operations.stale = self._invalidate

    def init(self) -> None:
        """The kernel has said INIT: from here on the mount answers."""
        self._on_ready()

    def close(self) -> None:
        """Send no more notifications: the session is about to be closed."""
        self._ops.stale = None

    # -- conversions -----------------------------------------------------------------------------------

    @staticmethod
    def _invalidate(ino: Ino) -> None:
        """Have the kernel ask for attributes again.

        From a handler this is safe for attributes alone: the kernel takes no lock that the pending request
        holds (fuse_reverse_inval_inode), as it would for entries and pages (libfuse #341).
        """
        try:
            pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only=True)
        except OSError as error:
            if error.errno != errno.ENOENT:  # the kernel does not hold it any more
                raise

    def _refresh(self) -> bytes:
        """Have the kernel forget what may no longer be so. In a thread, while requests are served: it waits for
        pages and directories that requests hold; but none is held by the getxattr(2) that asked for this."""
        for change in self._ops.refresh():
            with contextlib.suppress(FileNotFoundError):  # the kernel does not hold it
                pyfuse3.invalidate_inode(pyfuse3.InodeT(change.ino))
            for name in change.names:
                with contextlib.suppress(FileNotFoundError):
                    pyfuse3.invalidate_entry(pyfuse3.InodeT(change.directory), pyfuse3.FileNameT(name))
        return b""

    @staticmethod
    def _attributes(attr: Attr) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(attr.st_ino)
        entry.st_mode = pyfuse3.ModeT(attr.mode)
        entry.st_nlink = attr.nlink
        entry.st_uid = attr.uid
        entry.st_gid = attr.gid
        entry.st_rdev = attr.rdev
        entry.st_size = attr.size
        entry.st_blocks = attr.blocks
        entry.st_atime_ns = attr.atime_ns
        entry.st_mtime_ns = attr.mtime_ns
        entry.st_ctime_ns = attr.ctime_ns
        entry.entry_timeout = FOREVER
        entry.attr_timeout = FOREVER
        return entry

    def _entry(self, attr: Attr) -> EntryAttributes:
        entry = self._attributes(attr)
        if attr.ino != attr.st_ino:
            entry.st_ino = pyfuse3.InodeT(attr.ino)
            entry.attr_timeout = 0
        return entry

    def _new_handle(self, handle: _Handle) -> pyfuse3.FileHandleT:
        self._next_handle += 1
        self._handles[self._next_handle] = handle
        return pyfuse3.FileHandleT(self._next_handle)

    def _open_handle(self, ino: Ino, flags: int, ctx: RequestContext) -> FileInfo:
        # Root has CAP_FSETID, whose holders do not clear setuid by writing; a request does not tell more.
        handle = _Handle(ino, kill_suid=ctx.uid != 0, sync=bool(flags & os.O_DSYNC))
        return FileInfo(fh=self._new_handle(handle), keep_cache=True)

    async def _slowly(self, ino: Ino, call: Callable[[], R], name: bytes | None = None) -> R:
        """Run what may copy a large file in a thread, anything else right here."""
        if self._ops.slow(ino, name):
            return await trio.to_thread.run_sync(call)
        return call()

    # -- names -----------------------------------------------------------------------------------------

    @_handler
    async def lookup(self, parent_inode: Any, name: Any, ctx: RequestContext) -> EntryAttributes:
        try:
            return self._entry(self._ops.lookup(parent_inode, name))
        except FileNotFoundError:
            missing = EntryAttributes()  # inode 0: the kernel remembers that there is nothing
            missing.st_ino = pyfuse3.InodeT(0)
            missing.entry_timeout = FOREVER
            return missing

    async def forget(self, inode_list: Any) -> None:
        for ino, count in inode_list:
            try:
                self._ops.forget(ino, count)
            except Exception:
                log.exception("bug in forget(%d, %d)", ino, count)

    @_handler
    async def mknod(
        self, parent_inode: Any, name: Any, mode: Any, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._entry(self._ops.mknod(parent_inode, name, mode, rdev, _caller(ctx)))

    @_handler
    async def mkdir(self, parent_inode: Any, name: Any, mode: Any, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._ops.mkdir(parent_inode, name, mode, _caller(ctx)))

    @_handler
    async def symlink(self, parent_inode: Any, name: Any, target: Any, ctx: RequestContext) -> EntryAttributes:
        return self._entry(self._ops.symlink(parent_inode, name, target, _caller(ctx)))

    @_handler
    async def link(self, inode: Any, new_parent_inode: Any, new_name: Any, ctx: RequestContext) -> EntryAttributes:
        call = functools.partial(self._ops.link, inode, new_parent_inode, new_name)
        return self._entry(await self._slowly(inode, call))

    @_handler
    async def unlink(self, parent_inode: Any, name: Any, ctx: RequestContext) -> None:
        call = functools.partial(self._ops.unlink, parent_inode, name)
        if self._ops.slow(parent_inode, name, removing=True):
            await trio.to_thread.run_sync(call)
        else:
            call()

    @_handler
    async def rmdir(self, parent_inode: Any, name: Any, ctx: RequestContext) -> None:
        self._ops.rmdir(parent_inode, name)

    @_handler
    async def rename(
        self,
        parent_inode_old: Any,
        name_old: Any,
        parent_inode_new: Any,
        name_new: Any,
        flags: Any,
        ctx: RequestContext,
    ) -> None:
        call = functools.partial(self._ops.rename, parent_inode_old, name_old, parent_inode_new, name_new, flags)
        if flags & pyfuse3.RENAME_EXCHANGE and self._ops.slow(parent_inode_new, name_new):
            await trio.to_thread.run_sync(call)
        else:
            await self._slowly(parent_inode_old, call, name_old)

    # -- attributes ------------------------------------------------------------------------------------

    @_handler
    async def getattr(self, inode: Any, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(self._ops.getattr(inode))

    @_handler
    async def setattr(
        self, inode: Any, attr: EntryAttributes, fields: SetattrFields, fh: Any, ctx: RequestContext
    ) -> EntryAttributes:
        changes = vfs.SetAttr(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            kill_suid=ctx.uid != 0,
        )
        call = functools.partial(self._ops.setattr, inode, changes, _caller(ctx))
        return self._attributes(await self._slowly(inode, call))

    @_handler
    async def readlink(self, inode: Any, ctx: RequestContext) -> Any:
        return self._ops.readlink(inode)

    @_handler
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        st = self._ops.statfs()
        data = StatvfsData()
        data.f_bsize, data.f_frsize = st.bsize, st.frsize
        data.f_blocks, data.f_bfree, data.f_bavail = st.blocks, st.bfree, st.bavail
        data.f_files, data.f_ffree, data.f_favail = st.files, st.ffree, st.favail
        data.f_namemax = st.namemax
        return data

    @_handler
    async def getxattr(self, inode: Any, name: Any, ctx: RequestContext) -> bytes:
        if name == _INFO_XATTR and inode == vfs.ROOT:
            return self._info({})
        if name == _REFRESH_XATTR and inode == vfs.ROOT and ctx.uid in (0, os.geteuid()):
            return await trio.to_thread.run_sync(self._refresh)
        return self._ops.getxattr(inode, name)

    @_handler
    async def setxattr(self, inode: Any, name: Any, value: bytes, ctx: RequestContext) -> None:
        # pyfuse3 does not pass on the flags, but it checks XATTR_CREATE and XATTR_REPLACE in the kernel's stead.
        await self._slowly(inode, functools.partial(self._ops.setxattr, inode, name, value, 0))

    @_handler
    async def listxattr(self, inode: Any, ctx: RequestContext) -> Any:
        names = self._ops.listxattr(inode)
        return names if ctx.uid == 0 else [name for name in names if not name.startswith(b"trusted.")]

    @_handler
    async def removexattr(self, inode: Any, name: Any, ctx: RequestContext) -> None:
        await self._slowly(inode, functools.partial(self._ops.removexattr, inode, name))

    # -- files -----------------------------------------------------------------------------------------

    @_handler
    async def open(self, inode: Any, flags: Any, ctx: RequestContext) -> FileInfo:
        call = functools.partial(self._ops.open, inode, flags, _caller(ctx))
        if flags & (os.O_ACCMODE | os.O_TRUNC) == os.O_RDONLY:
            call()
        else:
            await self._slowly(inode, call)
        return self._open_handle(inode, flags, ctx)

    @_handler
    async def create(
        self, parent_inode: Any, name: Any, mode: Any, flags: Any, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        attr = self._ops.create(parent_inode, name, mode, _caller(ctx))
        return self._open_handle(attr.ino, flags, ctx), self._entry(attr)

    @_handler
    async def read(self, fh: Any, off: int, size: int) -> bytes:
        return self._ops.read(self._handles[fh].ino, off, size)

    @_handler
    async def write(self, fh: Any, off: int, buf: bytes) -> int:
        handle = self._handles[fh]
        call = functools.partial(
            self._ops.write, handle.ino, off, buf, kill_suid=handle.kill_suid, sync=handle.sync
        )
        return await trio.to_thread.run_sync(call) if handle.sync else await self._slowly(handle.ino, call)

    @_handler
    async def flush(self, fh: Any) -> None:
        """close(2): nothing is held back that could be flushed, so the kernel need not ask again."""
        raise FUSEError(errno.ENOSYS)

    @_handler
    async def release(self, fh: Any) -> None:
        self._ops.release(self._handles.pop(fh).ino)

    @_handler
    async def fsync(self, fh: Any, datasync: bool) -> None:
        ino = self._handles[fh].ino
        await trio.to_thread.run_sync(functools.partial(self._ops.fsync, ino, data_only=bool(datasync)))

    # -- directories -----------------------------------------------------------------------------------

    @_handler
    async def opendir(self, inode: Any, ctx: RequestContext) -> pyfuse3.FileHandleT:
        return self._new_handle(_Handle(inode))

    @_handler
    async def readdir(self, fh: Any, start_id: int, token: Any) -> None:
        """Report entries from a listing taken at its start, so that changes during the scan disturb nothing.

        Offset n is the n-th name of that listing; ``.`` and ``..`` come first.
        """
        handle = self._handles[fh]
        if start_id == 0 or handle.entries is None:
            handle.entries = [entry.name for entry in self._ops.readdir(handle.ino)]
        for offset in range(start_id, len(handle.entries) + 2):
            if offset < 2:
                ino = handle.ino if offset == 0 else self._ops.parent(handle.ino)
                attributes = self._attributes(self._ops.getattr(ino))
                if not pyfuse3.readdir_reply(token, (b".", b"..")[offset], attributes, offset + 1):
                    return
                continue
            name = handle.entries[offset - 2]
            try:
                attr = self._ops.lookup(handle.ino, name)
            except FileNotFoundError:
                continue  # removed since the listing was taken
            except OSError as error:  # pyfuse3 has no way to name what has no attributes
                log.warning("%r is left out of a listing: %s", name, error)
                continue
            if not pyfuse3.readdir_reply(token, name, self._entry(attr), offset + 1):
                self._ops.forget(attr.ino, 1)
                return

    @_handler
    async def releasedir(self, fh: Any) -> None:
        del self._handles[fh]

    @_handler
    async def fsyncdir(self, fh: Any, datasync: bool) -> None:
        await self.fsync(fh, datasync)


def _caller(ctx: RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.umask)


def serve(
    operations: vfs.Operations,
    mountpoint: str,
    flags: Set[str],
    options: TransportOptions,
    *,
    info: Info,
    on_ready: Callable[[], None],
    successor: Successor,
) -> None:
    """Mount at ``mountpoint`` and answer requests until it is unmounted, or SIGTERM or SIGINT arrives.

    ``flags`` are FUSE mount options; ``default_permissions`` is always one of them. Raises RuntimeError
    when mounting fails (libfuse says why on stderr). There is no ``successor`` to a session of libfuse's.
    """
    adapter = Adapter(operations, info, on_ready)
    adapter.enable_writeback_cache = options.writeback
    os.umask(0)  # the caller's is applied where an object is created
    flags = flags | {"default_permissions"}
    attached = mount_directly(mountpoint, flags)
    started = False
    try:
        pyfuse3.init(adapter, mountpoint if attached is None else f"/dev/fd/{attached.fd}", set(flags))
        started = True
        trio.run(_main)
    finally:
        if attached is not None:
            attached.detach()
        adapter.close()
        if started:
            pyfuse3.close(unmount=True)


async def _main() -> None:
    """The session loop, ended by a signal or by the unmount."""
    async with trio.open_nursery() as nursery:

        async def stop_on_signal() -> None:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
                async for _ in signals:
                    pyfuse3.terminate()
                    return

        nursery.start_soon(stop_on_signal)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()
