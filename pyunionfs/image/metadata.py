"""Owners, modes, times and xattrs of unpacked files, and what becomes of them without privileges.

The rule for a process that may not give files away (no CAP_CHOWN, or an id outside its user namespace):

1. The file stays the caller's. Regular files and directories carry ``user.containers.override_stat``, an
   xattr with ``uid:gid:mode``, mode in octal with its type bits, as containers/storage's drivers write it and
   mount programs read it. The kernel allows no such xattr on symlinks, fifos and devices: theirs are lost
   and counted.
2. Such files lose setuid and setgid on disk (they would act as the caller) and stay readable to the caller.
3. A device that may not be made becomes an empty regular file whose override_stat says
   ``uid:gid:permissions:char-MAJOR-MINOR`` (or ``block-``), the longer form of the same format.
4. xattrs that are refused (trusted.*, security.*) are skipped, counted.

Never taken from a layer: xattrs that have a meaning for the union itself, for a layer must not decide what
the layers around it look like (redirect, opaque, override_stat).
"""

import errno
import os
import stat
from collections.abc import Mapping

import xattr

from pyunionfs.image import tar
from pyunionfs.image.errors import ImageError, show
from pyunionfs.image.report import UnpackReport
from pyunionfs.image.tar import Entry
from pyunionfs.overlay.marks import TRUSTED, USER

OVERRIDE_STAT = "user.containers.override_stat"
_PRIVATE = (TRUSTED.prefix, USER.prefix, "user.fuseoverlayfs.", OVERRIDE_STAT)
_ACL = "system.posix_acl_"
_NOT_PERMITTED = (errno.EPERM, errno.EINVAL)
_UNCHANGED = 0xFFFFFFFF  # chown(2)'s "leave as it is", so no id that a file could have

_TYPE_BITS = {
    tar.REGULAR: stat.S_IFREG,
    tar.DIRECTORY: stat.S_IFDIR,
    tar.CHAR: stat.S_IFCHR,
    tar.BLOCK_DEVICE: stat.S_IFBLK,
    tar.FIFO: stat.S_IFIFO,
}
IMPLIED_DIRECTORY = Entry(b"", tar.DIRECTORY, 0o755, 0, 0, 0, 0, b"")


def owner(entry: Entry) -> tuple[int, int]:
    """Numeric uid and gid as chown(2) takes them; small negative ones wrap, as tools write "nobody"."""
    ids = []
    for name, value in (("uid", entry.uid), ("gid", entry.gid)):
        wrapped = value + (1 << 32) if value < 0 else value
        if not 0 <= wrapped < _UNCHANGED:
            raise ImageError(f"{show(entry.name)}: impossible {name} {value}")
        ids.append(wrapped)
    return ids[0], ids[1]


def _times(entry: Entry) -> tuple[int, int]:
    # One outcome a layer: where the tar has no time of access, the time of change stands in.
    return (entry.mtime if entry.atime is None else entry.atime, entry.mtime)


def override_value(entry: Entry) -> bytes:
    """The value of ``user.containers.override_stat`` for an entry."""
    uid, gid = owner(entry)
    if entry.type in (tar.CHAR, tar.BLOCK_DEVICE):
        kind = "char" if entry.type == tar.CHAR else "block"
        return f"{uid}:{gid}:{entry.mode:04o}:{kind}-{entry.major}-{entry.minor}".encode()
    return f"{uid}:{gid}:{_TYPE_BITS[entry.type] | entry.mode:07o}".encode()


class Metadata:
    """Applies entries' metadata, and writes what was not possible into ``report``."""

    def __init__(self, report: UnpackReport) -> None:
        self._report = report

    def apply(self, fd: int, entry: Entry, path: bytes, extra: Mapping[str, bytes] | None = None) -> None:
        """To an open regular file or directory whose content is complete. ``extra``: the union's own marks.

        The order matters: chown(2) clears capabilities and setuid; a mode may forbid setting xattrs; an ACL
        overrules the mode's group bits; all of them change times. Raises OSError, ImageError.
        """
        native = self._own(fd, entry, path)
        for name, value in (extra or {}).items():
            xattr.setxattr(fd, name, value)
        self._xattrs(fd, entry, path, acl=False)
        os.fchmod(fd, entry.mode if native else self._reduced(entry, path))
        self._xattrs(fd, entry, path, acl=True)
        _set_times(fd, entry)

    def apply_to_name(self, dir_fd: int, name: bytes, entry: Entry, path: bytes) -> None:
        """To a symlink, device or fifo, which is not opened; just made by us, so it is what it should be."""
        try:
            os.chown(name, *owner(entry), dir_fd=dir_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NOT_PERMITTED:
                raise
            self._report.remark("owners lost", path)
        # There is no lsetxattr relative to a descriptor; this path goes through the descriptor itself.
        self._xattrs(b"/proc/self/fd/%d/%s" % (dir_fd, name), entry, path)
        if entry.type != tar.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=dir_fd)
        _set_times(name, entry, dir_fd=dir_fd)

    def _own(self, fd: int, entry: Entry, path: bytes) -> bool:
        """Give the file to its owner; False when only noted in the xattr."""
        native = entry.type in (tar.REGULAR, tar.DIRECTORY)  # not a stand-in for a device
        try:
            os.fchown(fd, *owner(entry))
        except OSError as error:
            if error.errno not in _NOT_PERMITTED:
                raise
            native = False
        if native:
            return True
        try:
            xattr.setxattr(fd, OVERRIDE_STAT, override_value(entry))
            self._report.remark("owners kept in override_stat", path)
        except OSError:
            self._report.remark("owners lost", path)
        return False

    def _reduced(self, entry: Entry, path: bytes) -> int:
        is_dir = entry.type == tar.DIRECTORY
        mode = (entry.mode & (0o3777 if is_dir else 0o777)) | (0o500 if is_dir else 0o400)
        if mode != entry.mode:
            self._report.remark("modes reduced", path)
        return mode

    def _xattrs(self, target: int | bytes, entry: Entry, path: bytes, *, acl: bool | None = None) -> None:
        for raw, value in entry.xattrs.items():
            name = raw.decode("utf-8", "surrogateescape")
            if acl is not None and name.startswith(_ACL) != acl:
                continue
            if name.startswith(_PRIVATE) or "\0" in name:
                self._report.remark("xattrs of the union itself refused", path)
                continue
            try:
                xattr.setxattr(target, name, value, symlink=not isinstance(target, int))
            except OSError:
                # Not permitted, not supported here, too large: the file is still of use without it.
                self._report.remark(f"xattrs {name.partition('.')[0]}.* skipped", path)


def _set_times(target: int | bytes, entry: Entry, *, dir_fd: int | None = None) -> None:
    try:
        if isinstance(target, int):
            os.utime(target, ns=_times(entry))
        else:
            os.utime(target, ns=_times(entry), dir_fd=dir_fd, follow_symlinks=False)
    except OverflowError:
        raise ImageError(f"{show(entry.name)}: impossible time") from None
