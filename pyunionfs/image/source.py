"""Where an archive's members come from: a tar (perhaps compressed, perhaps from a pipe) or a directory.

Both answer one question: the bytes called ``blobs/sha256/...``. Names are confined to the archive; symlinks
inside it are followed, since ``docker save`` writes them for layers that images share.
"""

import io
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from pyunionfs import linux
from pyunionfs.image import tar
from pyunionfs.image.compression import open_plain
from pyunionfs.image.errors import ImageError, show
from pyunionfs.image.limits import Limits
from pyunionfs.image.names import resolve
from pyunionfs.image.sparse import BLOCK
from pyunionfs.image.streams import CHUNK, Budget, Meter, Slice, buffered
from pyunionfs.image.tar import TarReader

_MAX_LINKS = 40  # as the kernel follows, path_resolution(7)


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive: its size in bytes, and how to read it, each time anew from the first byte."""

    size: int
    open: Callable[[], io.RawIOBase]


class Source(Protocol):
    """An archive's members by name."""

    where: str  # the archive, for messages

    def find(self, name: str) -> Member | None:
        """The member, None if there is none; a name is never looked up outside the archive."""

    def close(self) -> None:
        """Let go of the descriptors; members are of no use any more."""


class TarSource:
    """Members of a plain tar in a seekable file: one pass over the headers finds them all."""

    def __init__(self, fd: int, where: str, limits: Limits) -> None:
        self.where = where
        self._fd = fd  # ours to close
        self._members: dict[bytes, tuple[int, int] | bytes] = {}  # (offset, size), or a link's target
        size = os.fstat(fd).st_size
        with buffered(Slice(fd, 0, min(size, BLOCK))) as stream:
            head = stream.read(BLOCK)
        if not tar.looks_like_tar(head):
            raise ImageError(f"{where}: neither a tar nor a compressed one")
        with buffered(io.FileIO(os.dup(fd))) as stream:
            stream.seek(0)
            budget = Budget(limits.max_remembered, where)
            for entry in TarReader(stream, where=where, limits=limits, size=size):
                budget.spend(len(entry.name) + len(entry.linkname))
                self._note(entry)

    def _note(self, entry: tar.Entry) -> None:
        # As bytes are extracted: the last of a name counts.
        name = b"/".join(resolve(entry.name))
        if entry.type == tar.REGULAR and entry.pieces is None:
            self._members[name] = (entry.offset, entry.stored)
        elif entry.type == tar.SYMLINK:
            self._members[name] = entry.linkname if entry.linkname[:1] == b"/" else self._beside(name, entry)
        elif entry.type == tar.LINK:
            self._members[name] = b"/" + entry.linkname
        else:
            self._members.pop(name, None)

    @staticmethod
    def _beside(name: bytes, entry: tar.Entry) -> bytes:
        return name.rpartition(b"/")[0] + b"/" + entry.linkname

    def find(self, name: str) -> Member | None:
        raw = os.fsencode(name)
        for _ in range(_MAX_LINKS):
            found = self._members.get(b"/".join(resolve(raw)))
            if found is None:
                return None
            if isinstance(found, tuple):
                offset, size = found
                return Member(size, partial(Slice, self._fd, offset, size))
            raw = found
        raise ImageError(f"{self.where}: the member {show(name)} is a symlink that leads in circles")

    def close(self) -> None:
        os.close(self._fd)


class DirectorySource:
    """Members of a directory: an OCI layout, ``skopeo``'s dir, or an archive that was extracted."""

    def __init__(self, path: str, where: str) -> None:
        self.where = where
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def find(self, name: str) -> Member | None:
        path = b"/".join(resolve(os.fsencode(name)))
        try:
            with self._open(path) as file:
                status = os.fstat(file.fileno())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ImageError(f"{self.where}: cannot read {show(name)}: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{self.where}: {show(name)} is no regular file")
        return Member(status.st_size, partial(self._open, path))

    def _open(self, path: bytes) -> io.FileIO:
        fd = linux.openat2(
            self._root,
            path or b".",
            os.O_RDONLY | os.O_NONBLOCK,  # lest a fifo makes us wait
            resolve=linux.RESOLVE_BENEATH | linux.RESOLVE_NO_MAGICLINKS,
        )
        try:
            return io.FileIO(fd)
        except OSError:  # a directory
            os.close(fd)
            raise

    def close(self) -> None:
        os.close(self._root)


def open_source(
    archive: str | Path | BinaryIO,
    *,
    spool: str,
    limits: Limits,
    progress: Callable[[int], object] | None = None,
) -> Source:
    """Open a directory, a tar, a compressed tar (gzip, bzip2, xz, zstd) or a pipe with one of these.

    What cannot be read at random is first written, uncompressed, to an unnamed file in the directory
    ``spool``, so it takes that much space there until :meth:`Source.close`. ``progress`` hears the bytes
    written so far. Raises ImageError, OSError.
    """
    if isinstance(archive, str | Path):
        where = os.fspath(archive)
        if Path(archive).is_dir():
            return DirectorySource(where, where)
        with open(archive, "rb", buffering=0) as file:
            return _tar_source(file, where, spool, limits, progress)
    name = getattr(archive, "name", "")
    where = name if isinstance(name, str) and name and name[0] != "<" else "standard input"
    return _tar_source(archive, where, spool, limits, progress)


def _tar_source(
    file: BinaryIO | io.FileIO,
    where: str,
    spool: str,
    limits: Limits,
    progress: Callable[[int], object] | None,
) -> TarSource:
    with ExitStack() as stack:
        fd = _random_access(file)
        if fd is None:
            fd = _spooled(buffered(_Pipe(file)), where, spool, limits, progress)
        stack.callback(os.close, fd)
        plain, compression = open_plain(Slice(fd, 0, os.fstat(fd).st_size), where=where)
        fd = os.dup(fd) if compression is None else _spooled(plain, where, spool, limits, progress)
    try:
        return TarSource(fd, where, limits)
    except BaseException:
        os.close(fd)
        raise


class _Pipe(io.RawIOBase):
    """Any binary file as a raw stream, for those that may be read once only."""

    def __init__(self, file: BinaryIO | io.FileIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), CHUNK)) or b""
        buffer[: len(data)] = data
        return len(data)


def _random_access(file: BinaryIO | io.FileIO) -> int | None:
    """A descriptor of our own if this is a regular file at its start."""
    try:
        fd = file.fileno()
        if stat.S_ISREG(os.fstat(fd).st_mode) and file.tell() == 0:
            return os.dup(fd)
    except OSError:
        pass  # no file behind it, as with BytesIO
    return None


def _spooled(
    stream: io.BufferedReader,
    where: str,
    spool: str,
    limits: Limits,
    progress: Callable[[int], object] | None,
) -> int:
    """Write a stream to a file without a name; its descriptor, which the caller closes."""
    meter = Meter(limits.max_bytes, where)
    with tempfile.TemporaryFile(dir=spool, buffering=0) as target:
        while chunk := stream.read(CHUNK):
            meter(memoryview(chunk))
            rest = memoryview(chunk)
            while rest:
                rest = rest[target.write(rest) :]
            if progress is not None:
                progress(meter.count)
        return os.dup(target.fileno())
