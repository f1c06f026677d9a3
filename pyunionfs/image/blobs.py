"""Layer blobs: verified as they are read, and kept so that an image can be saved again byte for byte.

A layer's digest is that of its tar; packing the unpacked tree again would give another. So the store keeps
the tar as well: a compressed blob as it came (``blobs/ALGORITHM/HEX``, which ``sha256sum`` confirms), a plain
one compressed by zstd at its fastest (``blobs/sha256/HEX.tar.zst``, HEX of the plain tar). The cost is the
size of the compressed layer, typically a third of the unpacked one.
"""

import hashlib
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import zstandard

from pyunionfs.image.compression import detect, open_plain
from pyunionfs.image.errors import ImageError
from pyunionfs.image.source import Member
from pyunionfs.image.streams import CHUNK, Sink, Tap, buffered, drain
from pyunionfs.image.workspace import own_directories

T = TypeVar("T")
_FASTEST = 1  # zstd's level
_PLAIN_SUFFIX = ".tar.zst"
_ALGORITHM = re.compile(r"[a-z0-9]+")
_FILE = re.compile(rf"[0-9a-f]{{32,}}({re.escape(_PLAIN_SUFFIX)})?")


@dataclass(frozen=True, slots=True)
class Blob(Generic[T]):
    """A layer's blob that was read and found to be what it should be."""

    digest: str  # of the blob as the archive had it
    diff_id: str  # of the plain tar
    compression: str | None
    result: T  # of its reader


def read(
    member: Member,
    consume: Callable[[io.BufferedReader], T],
    *,
    where: str,
    diff_id: str,
    digest: str | None,
    keep: Path | None = None,
    on_plain: Sequence[Sink] = (),
    on_stored: Sequence[Sink] = (),
) -> Blob[T]:
    """Pass a layer's plain tar to ``consume``, and verify the blob's digest (if known) and its diff id.

    With ``keep``, what the store keeps of the blob is written to that file on the way. The sinks hear the
    plain bytes and those of the archive. Where content and digest are both wrong, the digest is reported.
    Raises ImageError, and what ``consume`` raises.
    """
    plain_hash = hashlib.sha256()
    blob_hash = hashlib.new(digest.partition(":")[0] if digest else "sha256")
    with member.open() as raw, open(keep or os.devnull, "wb") as kept:
        stored = buffered(raw)
        compression = detect(stored.peek(16))
        packer = zstandard.ZstdCompressor(level=_FASTEST).stream_writer(kept, closefd=False)
        keeper: Sink = kept.write if compression else packer.write
        sinks = (blob_hash.update, *((keeper,) if keep else ()), *on_stored)
        tapped, _ = open_plain(Tap(stored, *sinks), where=where)
        plain = buffered(Tap(tapped, plain_hash.update, *on_plain))
        failure: ImageError | None = None
        try:
            result = consume(plain)
            drain(plain)
        except ImageError as error:
            failure = error
            drain(stored if compression else plain)
        if not compression:
            packer.flush(zstandard.FLUSH_FRAME)
    _compare(where, digest, f"{blob_hash.name}:{blob_hash.hexdigest()}", failure)
    if failure is not None:
        raise failure
    _compare(f"{where}: its uncompressed tar", diff_id, f"sha256:{plain_hash.hexdigest()}", failure)
    return Blob(f"{blob_hash.name}:{blob_hash.hexdigest()}", diff_id, compression, result)


def _compare(where: str, expected: str | None, found: str, cause: ImageError | None) -> None:
    if expected is not None and expected != found:
        raise ImageError(f"{where}: its digest is {found[:23]}..., not {expected[:23]}...: damaged") from cause


class BlobStore:
    """The directory ``blobs`` of a store."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, digest: str, compression: str | None) -> Path:
        """Where a blob of this digest and compression is kept."""
        algorithm, _, digits = digest.partition(":")
        return self._root / algorithm / (digits if compression else digits + _PLAIN_SUFFIX)

    def find(self, digest: str) -> Path | None:
        """The file that keeps a blob, whatever its form."""
        paths = (self.path(digest, "any"), self.path(digest, None))
        return next((path for path in paths if path.exists()), None)

    def install(self, file: Path, digest: str, compression: str | None) -> Path:
        """Move a file that :func:`read` kept into place; it is the same as one that is there already."""
        path = self.path(digest, compression)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.replace(file, path)
        return path

    def open(self, digest: str) -> io.BufferedReader:
        """The blob, byte for byte as it was in the archive. Raises ImageError if it is not here."""
        if self.keeps_as_is(digest):
            return buffered(io.FileIO(self.path(digest, "any")))
        return self.open_plain(digest)

    def keeps_as_is(self, digest: str) -> bool:
        """Whether the file that keeps a blob has this digest itself: a plain one is kept compressed by us."""
        return self.find(digest) == self.path(digest, "any")

    def size(self, digest: str) -> int:
        """How many bytes a blob has. Raises ImageError if it is not here."""
        if self.keeps_as_is(digest):
            return self.member(digest).size
        with self.open_plain(digest) as plain:
            return sum(map(len, iter(partial(plain.read, CHUNK), b"")))

    def open_plain(self, digest: str) -> io.BufferedReader:
        """The plain tar of a layer's blob. Raises ImageError if it is not here."""
        path = self.find(digest)
        plain, compression = open_plain(self.member(digest).open(), where=digest)
        if compression is None and path == self.path(digest, None):
            raise ImageError(f"{path} is damaged: it is not compressed")
        return plain

    def member(self, digest: str) -> Member:
        """What is kept of a blob, for :func:`read`. Raises ImageError if it is not here."""
        path = self.find(digest)
        if path is None:
            raise ImageError(f"the store has no blob {digest}")
        return Member(path.stat().st_size, partial(io.FileIO, path))

    def all(self) -> list[Path]:
        """Every blob's file; whatever else is there is not ours."""
        found = []
        for directory in own_directories(self._root, _ALGORITHM):
            with os.scandir(directory) as entries:
                found += [
                    Path(e.path) for e in entries if _FILE.fullmatch(e.name) and e.is_file(follow_symlinks=False)
                ]
        return sorted(found)
