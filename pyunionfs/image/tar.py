"""Reading tar streams: ustar, PAX and GNU, as bytes from end to end, in one pass over a pipe if need be.

Why not the standard library's ``tarfile``: it takes a damaged header after the first for the end of the
archive, reads extended headers of any size into memory, keeps every entry, rounds times to floats and turns
names into ``str``. Here a layer's reader must fail loudly and stay small. Entries mean what they mean to Go's
``archive/tar``, with which the common tools write and read layers: global PAX headers are skipped, links and
directories have no data, old headers are told apart by their magic.

This module only reads; what an entry does to a directory tree is ``unpack``'s business.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from pyunionfs.image import pax, sparse
from pyunionfs.image.errors import ImageError, show
from pyunionfs.image.limits import Limits
from pyunionfs.image.sparse import BLOCK, Piece
from pyunionfs.image.streams import CHUNK

REGULAR, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"

_ALIASES = {b"\0": REGULAR, b"7": REGULAR, b"S": REGULAR, b"D": DIRECTORY}  # 7: contiguous; D: GNU dump
_TYPES = frozenset((REGULAR, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO))
_ZERO = bytes(BLOCK)
# name mode uid gid size mtime chksum type linkname magic+version uname gname major minor prefix
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_SPARSE_AT, _SPARSE_EXTENDED_AT, _REAL_SIZE_AT = 386, 482, 483  # GNU's header of type S
_EXTENSION_PIECES, _EXTENSION_MORE_AT = 21, 504


@dataclass(slots=True)
class Entry:
    """One file of a tar, as its headers describe it; types are the tar's letters ``0`` to ``6``."""

    name: bytes
    type: bytes
    mode: int  # permission bits only: writers put the file type there too
    uid: int
    gid: int
    size: int  # of the file when unpacked, holes included, in bytes
    mtime: int  # nanoseconds since the epoch, may be negative
    linkname: bytes  # empty unless a link: some writers leave a stray one elsewhere
    atime: int | None = None  # nanoseconds
    major: int = 0
    minor: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    pieces: tuple[Piece, ...] | None = None  # of a sparse file
    offset: int = 0  # of the data in the tar
    stored: int = 0  # bytes of data in the tar, a sparse map excluded


def number(raw: bytes, *, where: str) -> int:
    """A numeric field: octal digits, or base 256 with the top bit set (GNU). Raises ImageError."""
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big") & ((1 << (8 * len(raw) - 1)) - 1)
        return value - (1 << (8 * len(raw) - 1)) if raw[0] & 0x40 else value
    text = raw.lstrip(b"\0 ").split(b"\0", 1)[0].rstrip()
    if not text.strip(b"01234567"):
        return int(text or b"0", 8)
    raise ImageError(f"{where}: damaged header (bad number {show(raw)})")


def _checksum_matches(block: bytes) -> bool:
    try:
        stored = number(block[148:156], where="")
    except ImageError:
        return False
    rest = block[:148] + block[156:]
    total = sum(rest) + 8 * ord(" ")
    # Some old tars summed signed bytes.
    return stored == total or stored == total - 256 * sum(byte > 127 for byte in rest)


def looks_like_tar(head: bytes) -> bool:
    """Whether a stream that starts so (``BLOCK`` bytes) may be a tar: a header, or the end of an empty one."""
    return len(head) == BLOCK and (head == _ZERO or _checksum_matches(head))


def _text(raw: bytes) -> bytes:
    return raw.split(b"\0", 1)[0]


@dataclass(slots=True)
class _Extended:
    """What headers before an entry say about it."""

    long_name: bytes | None = None
    long_link: bytes | None = None
    pax: dict[bytes, bytes] = field(default_factory=dict)
    sparse_numbers: list[int] = field(default_factory=list)  # PAX 0.0, whose keys repeat
    size: int = 0  # bytes, to bound


class TarReader:
    """Iterate for the entries; between two, :meth:`data` gives the current one's content.

    ``where`` names the tar in messages. With ``seekable`` the stream is moved instead of read where content
    is skipped. Raises ImageError for whatever is damaged, cut short or beyond ``limits``.
    """

    def __init__(self, stream: io.BufferedReader, *, where: str, limits: Limits, size: int | None = None) -> None:
        self._stream = stream
        self._where = where
        self._limits = limits
        self._size = size  # of a seekable stream, bytes
        self._position = 0
        self._left = 0  # of the current entry's data
        self._padding = 0
        self._current: Entry | None = None

    def __iter__(self) -> Iterator[Entry]:
        count = 0
        while True:
            self._skip(self._left + self._padding)
            self._left = self._padding = 0
            entry = self._next()
            if entry is None:
                return
            count += 1
            if count > self._limits.max_entries:
                raise ImageError(f"{self._where}: more than the allowed {self._limits.max_entries} entries")
            yield entry

    def data(self) -> Iterator[tuple[int, bytes]]:
        """The current entry's content as ``(offset in the file, bytes)``; holes are not mentioned."""
        entry = self._current
        assert entry is not None
        if entry.type != REGULAR:  # what stands behind a header of another type is no file's
            return
        pieces = (Piece(0, self._left),) if entry.pieces is None else entry.pieces
        for piece in pieces:
            offset, end = piece.offset, piece.offset + piece.size
            while offset < end:
                chunk = self._read(min(CHUNK, end - offset))
                self._left -= len(chunk)
                yield offset, chunk
                offset += len(chunk)

    # -- the stream

    def _place(self) -> str:
        after = f", after {show(self._current.name)}" if self._current else ""
        return f"{self._where}: at byte {self._position}{after}"

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            what = f"in the middle of {show(self._current.name)}" if self._current else "in its first header"
            raise ImageError(f"{self._where}: cut short {what} (byte {self._position + len(data)})")
        self._position += size
        return data

    def _skip(self, size: int) -> None:
        if self._size is not None and size > CHUNK:
            if self._position + size > self._size:
                size = self._size - self._position + 1  # let the read below fail where the file ends
            self._stream.seek(size - 1, io.SEEK_CUR)
            self._position += size - 1
            size = 1
        while size > 0:
            size -= len(self._read(min(CHUNK, size)))

    def _block(self) -> bytes | None:
        """The next header; None at the end: two zero blocks, or no more data at an entry's boundary."""
        block = self._stream.read(BLOCK)
        if not block:
            return None
        if len(block) < BLOCK:
            raise ImageError(f"{self._place()}: cut short in a header")
        if block == _ZERO:
            second = self._stream.read(BLOCK)
            if second.strip(b"\0"):
                raise ImageError(f"{self._place()}: entries go on after the end of the archive (zero block)")
            return None
        self._position += BLOCK
        if not _checksum_matches(block):
            raise ImageError(f"{self._place()}: damaged header (checksum)")
        return block

    # -- headers

    def _next(self) -> Entry | None:
        extended = _Extended()
        while (block := self._block()) is not None:
            kind = block[156:157]
            if kind in b"xgLK" and kind:
                self._extend(extended, kind, number(block[124:136], where=self._place()))
            elif kind == b"V":
                extended = _Extended()  # GNU volume label: no file
            else:
                return self._entry(block, extended)
        if extended.size:
            raise ImageError(f"{self._place()}: cut short after an extended header")
        return None

    def _extend(self, extended: _Extended, kind: bytes, size: int) -> None:
        extended.size += max(size, BLOCK)
        if not 0 <= size <= self._limits.max_header or extended.size > self._limits.max_header:
            raise ImageError(f"{self._place()}: extended header of more than {self._limits.max_header} bytes")
        data = self._read(size)
        self._read(-size % BLOCK)
        if kind == b"L":
            extended.long_name = _text(data)
        elif kind == b"K":
            extended.long_link = _text(data)
        elif kind == b"x":
            extended.pax.clear()
            extended.sparse_numbers.clear()
            for key, value in pax.records(data, where=self._place()):
                if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                    extended.sparse_numbers.append(pax.integer(value, where=self._place(), key=key.decode()))
                elif value or key.startswith(pax.XATTR_PREFIX):
                    extended.pax[key] = value
                else:
                    extended.pax.pop(key, None)  # an empty value takes the record back

    def _entry(self, block: bytes, extended: _Extended) -> Entry:
        (name, mode, uid, gid, size, mtime, _, kind, link, magic, _, _, major, minor, prefix) = _HEADER.unpack(
            block
        )
        where = f"{self._where}: {show(_text(name))}"
        name = _text(name)
        if magic == b"ustar\x0000" and prefix[0]:
            name = _text(prefix) + b"/" + name
        if kind == b"\0" and name.endswith(b"/"):
            kind = DIRECTORY  # as before ustar
        entry = Entry(
            name=name if extended.long_name is None else extended.long_name,
            type=_ALIASES.get(kind, kind),
            mode=number(mode, where=where) & 0o7777,
            uid=number(uid, where=where),
            gid=number(gid, where=where),
            size=number(size, where=where),
            mtime=number(mtime, where=where) * 10**9,
            linkname=_text(link) if extended.long_link is None else extended.long_link,
        )
        if entry.type in (CHAR, BLOCK_DEVICE):
            entry.major, entry.minor = number(major, where=where), number(minor, where=where)
        self._apply_pax(entry, extended.pax)
        self._finish(entry, kind, block, extended)
        return entry

    def _apply_pax(self, entry: Entry, records: dict[bytes, bytes]) -> None:
        where = f"{self._where}: {show(entry.name)}"
        for key, value in records.items():
            if key == b"path":
                entry.name = value
            elif key == b"linkpath":
                entry.linkname = value
            elif key in (b"uid", b"gid", b"size"):
                setattr(entry, key.decode(), pax.integer(value, where=where, key=key.decode()))
            elif key in (b"mtime", b"atime"):
                setattr(entry, key.decode(), pax.nanoseconds(value, where=where, key=key.decode()))
            elif key.startswith(pax.XATTR_PREFIX):
                entry.xattrs[key[len(pax.XATTR_PREFIX) :]] = value

    def _finish(self, entry: Entry, kind: bytes, block: bytes, extended: _Extended) -> None:
        """Check what the headers said together, find the sparse map, and stand at the data."""
        where = f"{self._where}: {show(entry.name)}"
        if entry.type not in _TYPES:
            raise ImageError(f"{where}: unknown entry type {show(kind)}")
        if max(len(entry.name), len(entry.linkname)) > self._limits.max_name:
            raise ImageError(f"{where}: a name of more than {self._limits.max_name} bytes")
        if entry.size < 0:
            raise ImageError(f"{where}: negative size")
        self._current = entry
        if entry.type != REGULAR:
            if kind == b"D":  # the names in it: data, though not a file's
                self._left, self._padding = entry.size, -entry.size % BLOCK
            entry.size = 0
        if entry.type not in (LINK, SYMLINK):
            entry.linkname = b""
        if entry.type == REGULAR:
            self._left, self._padding = entry.size, -entry.size % BLOCK
            self._map_sparse(entry, kind, block, extended, where)
            if entry.size > self._limits.max_file_bytes:
                raise ImageError(f"{where}: more than the allowed {self._limits.max_file_bytes} bytes in one file")
            entry.stored = self._left
        entry.offset = self._position

    # -- sparse files

    def _map_sparse(self, entry: Entry, kind: bytes, block: bytes, extended: _Extended, where: str) -> None:
        records, limit = extended.pax, self._limits.max_sparse
        if kind == b"S":
            pieces = self._old_gnu_map(block, where)
            entry.size = number(block[_REAL_SIZE_AT : _REAL_SIZE_AT + 12], where=where)
        elif records.get(b"GNU.sparse.major") == b"1":
            pieces = sparse.from_data(self._map_block, limit=limit, where=where)
        elif b"GNU.sparse.map" in records:
            pieces = sparse.from_map(records[b"GNU.sparse.map"], limit=limit, where=where)
        elif extended.sparse_numbers:
            pieces = sparse.paired(extended.sparse_numbers, limit=limit, where=where)
        elif b"GNU.sparse.numblocks" in records:
            pieces = []
        else:
            return
        for key in (b"GNU.sparse.realsize", b"GNU.sparse.size"):
            if key in records:
                entry.size = pax.integer(records[key], where=where, key=key.decode())
        entry.name = records.get(b"GNU.sparse.name", entry.name)
        if len(entry.name) > self._limits.max_name or not 0 <= entry.size < 1 << 63:
            raise ImageError(f"{where}: impossible name or size of a sparse file")
        entry.pieces = sparse.checked(pieces, data=self._left, real=entry.size, where=where)

    def _map_block(self) -> bytes:
        """One block of a map that stands at the head of the data (PAX 1.0)."""
        if self._left < BLOCK:
            raise ImageError(f"{self._place()}: its sparse map is cut short")
        self._left -= BLOCK
        return self._read(BLOCK)

    def _old_gnu_map(self, block: bytes, where: str) -> list[Piece]:
        pieces: list[Piece] = []
        raw, more = block[_SPARSE_AT:_SPARSE_EXTENDED_AT], block[_SPARSE_EXTENDED_AT]
        while True:
            for at in range(0, len(raw), 24):
                if raw[at]:
                    offset = number(raw[at : at + 12], where=where)
                    pieces.append(Piece(offset, number(raw[at + 12 : at + 24], where=where)))
            if len(pieces) > self._limits.max_sparse:
                raise ImageError(f"{where}: its sparse map has more than {self._limits.max_sparse} pieces")
            if not more:
                return pieces
            extension = self._read(BLOCK)
            raw, more = extension[: 24 * _EXTENSION_PIECES], extension[_EXTENSION_MORE_AT]
