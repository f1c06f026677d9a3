"""One layer's tar becomes one directory in the overlay's own form.

The outcome depends on the set of marks and on the last entry of each name, never on where the marks stand:

1. Entries act in their order on a tree that only they build. A later entry of the same name wins: a
   directory again keeps its content and takes the new metadata, anything else replaces what was there, with
   all below it. A file or symlink that stands where a directory is needed gives way to a real directory.
2. Marks speak of lower layers only, so they are collected and applied when the tree is complete.
   Opaque directories are made if they are not there. A deleted name that the layer has as a directory makes
   that directory opaque; one that it has as another file needs nothing; otherwise it becomes a whiteout.
3. Directories get owner, mode, xattrs and times last, the deepest first. Those that no entry described are
   root's, 0755, of the epoch: two unpackings of a layer are equal.

Sources: OCI image-spec layer.md ("Changesets", "Whiteouts"); the marks are ``overlay.marks``. Names are
``names``' business, confinement is ``tree``'s, owners and modes are ``metadata``'s.
"""

import errno
import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from pyunionfs.image import lowers, names, tar
from pyunionfs.image.errors import ImageError, show
from pyunionfs.image.limits import DEFAULT_LIMITS, Limits
from pyunionfs.image.metadata import IMPLIED_DIRECTORY, Metadata
from pyunionfs.image.names import Kind, base, parent, within
from pyunionfs.image.report import UnpackReport
from pyunionfs.image.streams import Budget
from pyunionfs.image.tar import Entry, TarReader
from pyunionfs.image.tree import Tree
from pyunionfs.overlay.marks import OPAQUE_YES, Namespace, make_whiteout

# This machine's trouble, not the layer's: stays an OSError.
_OURS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(
    stream: io.BufferedReader,
    target: str | Path,
    *,
    marks: Namespace,
    trash: str | Path,
    where: str = "layer",
    limits: Limits = DEFAULT_LIMITS,
    below: Sequence[str] = (),
) -> UnpackReport:
    """Unpack a plain tar into ``target``, an empty directory, as the overlay's lower layer.

    ``marks`` says which xattrs carry the opaque mark. ``trash`` is an empty directory on the same
    filesystem that takes what later entries replaced; the caller deletes it. ``below`` are the unpacked
    layers under this one, top to bottom, for hard links to their files. The stream is read to the end of
    the archive, not to its own end. Raises ImageError for what the layer does wrong (``where`` names it),
    OSError for trouble of this machine.
    """
    report = UnpackReport()
    budget = Budget(limits.max_remembered, where)
    unpacker = _Unpacker(os.fspath(target), os.fspath(trash), marks, below, report, budget)
    with unpacker.tree:
        reader = TarReader(stream, where=where, limits=limits)
        for entry in reader:
            report.entries += 1
            try:
                unpacker.add(entry, reader)
            except (ImageError, OSError) as error:
                raise _explained(error, where, show(entry.name)) from error
        try:
            unpacker.finish()
        except OSError as error:
            raise _explained(error, where, "its directories") from error
    return report


def _explained(error: ImageError | OSError, where: str, entry: str) -> ImageError | OSError:
    """The error with the entry's name, and as an ImageError where the layer is to blame."""
    if isinstance(error, OSError):
        if error.errno in _OURS:
            return OSError(error.errno, f"{where}: {entry}: {os.strerror(error.errno)}")
        return ImageError(f"{where}: {entry}: {error.strerror}")
    # The tar's reader has named itself.
    return error if str(error).startswith(where) else ImageError(f"{where}: {entry}: {error}")


class _Unpacker:
    """The state of one layer: the tree, the marks seen, and the directories' last metadata."""

    def __init__(
        self,
        target: str,
        trash: str,
        marks: Namespace,
        below: Sequence[str],
        report: UnpackReport,
        budget: Budget,
    ) -> None:
        # None for a directory that no entry described (yet).
        self.directories: dict[bytes, Entry | None] = {b"": None}
        self.whiteouts: set[bytes] = set()
        self.opaques: set[bytes] = set()
        self.marks = marks
        self.below = below
        self.report = report
        self.budget = budget
        self.metadata = Metadata(report)
        self.tree = Tree(target, trash, self._created)

    def _created(self, path: bytes) -> None:
        self.budget.spend(len(path))
        self.directories[path] = None

    # -- entries

    def add(self, entry: Entry, reader: TarReader) -> None:
        place = names.place(entry.name)
        if place.kind is not Kind.ENTRY or entry.type == tar.DIRECTORY:
            self.budget.spend(len(place.path) + sum(map(len, entry.xattrs.values())))
        if place.kind is Kind.WHITEOUT:
            self.whiteouts.add(place.path)
        elif place.kind is Kind.OPAQUE:
            self.opaques.add(place.path)
        elif place.kind is Kind.IGNORED:
            self.report.remark("AUFS metadata ignored", place.path)
        elif entry.type == tar.DIRECTORY:
            self.tree.directory(place.path)
            self.directories[place.path] = entry
        elif not place.path:
            raise ImageError("stands for the root of the layer and is no directory")
        elif entry.type == tar.REGULAR:
            self._regular(place.path, entry, reader)
        elif entry.type == tar.LINK:
            self._link(place.path, entry)
        elif entry.type == tar.SYMLINK:
            fd = self.tree.vacate(place.path)
            os.symlink(entry.linkname, base(place.path), dir_fd=fd)
            self.metadata.apply_to_name(fd, base(place.path), entry, place.path)
            self.report.symlinks += 1
        else:
            self._node(place.path, entry)

    def _regular(self, path: bytes, entry: Entry, reader: TarReader) -> None:
        fd = os.open(base(path), _CREATE, 0o600, dir_fd=self.tree.vacate(path))
        try:
            if entry.pieces is not None:
                os.ftruncate(fd, entry.size)
            for offset, data in reader.data():
                written = 0
                while written < len(data):
                    written += os.pwrite(fd, data[written:], offset + written)
            self.metadata.apply(fd, entry, path)
        finally:
            os.close(fd)
        self.report.files += 1
        self.report.size += entry.size

    def _node(self, path: bytes, entry: Entry) -> None:
        kind = {tar.CHAR: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}[entry.type]
        if kind == stat.S_IFCHR and entry.major == entry.minor == 0:
            # On disk this device is a whiteout; there is no other way to write it down.
            self.report.remark("devices 0:0 taken for whiteouts", path)
            self._forget(path)
            self.whiteouts.add(path)
            return
        fd = self.tree.vacate(path)
        try:
            device = os.makedev(entry.major, entry.minor) if entry.type != tar.FIFO else 0
            os.mknod(base(path), kind | 0o600, device, dir_fd=fd)
        except OverflowError:
            raise ImageError(f"impossible device number {entry.major}:{entry.minor}") from None
        except PermissionError:
            self.report.remark("devices made empty files", path)
            file = os.open(base(path), _CREATE, 0o600, dir_fd=fd)
            try:
                self.metadata.apply(file, entry, path)
            finally:
                os.close(file)
            self.report.files += 1
            return
        self.metadata.apply_to_name(fd, base(path), entry, path)
        if entry.type == tar.FIFO:
            self.report.fifos += 1
        else:
            self.report.devices += 1

    def _forget(self, path: bytes) -> None:
        """Take an earlier entry of this name out of the tree again."""
        if self.tree.status(path) is not None:
            self.tree.vacate(path)

    def _link(self, path: bytes, entry: Entry) -> None:
        target = names.place(entry.linkname)
        shown = show(entry.linkname)
        if target.kind is not Kind.ENTRY:
            raise ImageError(f"hard link to the mark {shown}")
        if target.path == path and self.tree.status(path) is not None:
            return
        if within(target.path, path) or within(path, target.path):
            raise ImageError(f"hard link to {shown}, which lies above or below it, or is itself")
        status = self.tree.status(target.path)
        if status is None:
            self._borrow(path, target.path, shown)
            return
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"hard link to the directory {shown}")
        self.tree.vacate(path)
        source = self.tree.directory(parent(target.path))
        # The descriptor is good until the next call only, and the next may close it.
        source = os.dup(source)
        try:
            os.link(
                base(target.path),
                base(path),
                src_dir_fd=source,
                dst_dir_fd=self.tree.directory(parent(path)),
                follow_symlinks=False,
            )
        finally:
            os.close(source)
        self.report.hard_links += 1

    def _borrow(self, path: bytes, target: bytes, shown: str) -> None:
        """A hard link to a file of a lower layer: a copy of it."""
        found = lowers.find(self.below, target, self.marks)
        if found is None:
            raise ImageError(f"hard link to {shown}, which is not earlier in this layer, nor in those below")
        try:
            if not stat.S_ISREG(found.status.st_mode) and not stat.S_ISLNK(found.status.st_mode):
                raise ImageError(f"hard link to {shown}, which is no file or symlink in the layers below")
            lowers.copy(found, self.tree.vacate(path), base(path))
        finally:
            os.close(found.dir_fd)
        self.report.borrowed = True
        self.report.files += 1
        self.report.size += found.status.st_size
        self.report.remark("hard links to lower layers copied", path)

    # -- marks and directories, when the tree is complete

    def finish(self) -> None:
        for path in sorted(self.opaques):
            if self._free(path):
                self.tree.directory(path)
        opaque = {path for path in self.opaques if self.tree.find_directory(path) is not None}
        for path in sorted(self.whiteouts, key=_depth):
            status = self.tree.status(path)
            if status is not None and stat.S_ISDIR(status.st_mode):
                opaque.add(path)
            elif status is None and self._free(path):
                make_whiteout(self.tree.directory(parent(path)), base(path))
                self.report.whiteouts += 1
        self.report.opaque_root = b"" in opaque
        self.report.opaques = len(opaque)
        for path in sorted(self.directories, key=_depth, reverse=True):
            self._finish_directory(path, path in opaque)

    def _free(self, path: bytes) -> bool:
        """Whether nothing but directories stands above ``path``, nor anything at it but a directory."""
        while path:
            status = self.tree.status(path)
            if status is not None:
                return stat.S_ISDIR(status.st_mode)
            path = parent(path)
        return True

    def _finish_directory(self, path: bytes, opaque: bool) -> None:
        fd = self.tree.find_directory(path)
        if fd is None:
            return  # replaced by a later entry
        entry = self.directories[path]
        if entry is None:
            self.report.remark("directories without an entry", path)
            entry = IMPLIED_DIRECTORY
        self.report.directories += 1
        self.metadata.apply(fd, entry, path, {self.marks.opaque: OPAQUE_YES} if opaque else None)


def _depth(path: bytes) -> int:
    return path.count(b"/") + 1 if path else 0
