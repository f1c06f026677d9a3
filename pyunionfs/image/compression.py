"""Which compression a stream has, told by its first bytes, and the reader that undoes it.

Never by a media type or a suffix: ``dir`` layouts claim ``tar+gzip`` for plain tars (RFC 1952, RFC 8878, the
xz file format, bzip2).
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, Protocol

import zstandard

from pyunionfs.image.errors import ImageError
from pyunionfs.image.streams import buffered

# Compressed bytes handed to a decoder at once: gzip and zstd make of them 128 MiB at most, so this bounds memory.
_PIECE = 4096
_OUTPUT = 1 << 20  # plain bytes asked for at once, of decoders whose ratio has no bound
_MAX_WINDOW = 128 << 20  # bytes a decoder may remember: zstd --ultra --long=27


class _Decoder(Protocol):
    """What the four standard decoders have in common: one member (frame, stream) at a time."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Bounded:
    """A decoder of the standard library that takes a limit: bzip2 makes a gigabyte of 785 bytes."""

    def __init__(self, decoder: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._decoder = decoder

    @property
    def eof(self) -> bool:
        return self._decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self._decoder.unused_data

    @property
    def needs_input(self) -> bool:
        """Whether it has given all that it had for the input so far."""
        return self._decoder.needs_input

    def decompress(self, data: bytes, /) -> bytes:
        return self._decoder.decompress(data, _OUTPUT)


def _zstd() -> Any:
    return zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj()


_SKIPPABLE = tuple(bytes((0x50 + i, 0x2A, 0x4D, 0x18)) for i in range(16))

# name: (magics, decoder factory)
_FORMATS: dict[str, tuple[tuple[bytes, ...], Callable[[], _Decoder]]] = {
    "gzip": ((b"\x1f\x8b",), lambda: zlib.decompressobj(wbits=31)),
    "bzip2": ((b"BZh",), lambda: _Bounded(bz2.BZ2Decompressor())),
    "xz": ((b"\xfd7zXZ\0",), lambda: _Bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=2 * _MAX_WINDOW))),
    "zstd": ((b"\x28\xb5\x2f\xfd", *_SKIPPABLE), _zstd),
}
_LONGEST_MAGIC = 6


def detect(head: bytes) -> str | None:
    """The compression's name for the first bytes of a stream, None for a stream that has none."""
    return next((name for name, (magics, _) in _FORMATS.items() if head.startswith(magics)), None)


class Decompressed(io.RawIOBase):
    """The plain bytes of a compressed stream of one or more members (RFC 1952 2.2, RFC 8878 3.1).

    Zero bytes after the last member are padding, anything else there is an error, and so is a stream that
    ends within a member: the standard readers of zstd keep silent about that. Raises ImageError.
    """

    def __init__(self, source: io.BufferedReader, name: str, *, where: str) -> None:
        self._source = source
        self._name = name
        self._where = where
        self._decoder: _Decoder | None = _FORMATS[name][1]()
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            if not self._step():
                return 0
        count = min(len(buffer), len(self._output))
        memoryview(buffer)[:count] = self._output[:count]
        self._output = self._output[count:]
        return count

    def close(self) -> None:
        self._source.close()
        super().close()

    def _step(self) -> bool:
        """Decode one more piece; False at the end of the stream."""
        if self._decoder is None and not self._next_member():
            return False
        assert self._decoder is not None
        piece = b""
        if getattr(self._decoder, "needs_input", True):
            piece, self._input = self._input or self._source.read(_PIECE), b""
            if not piece:
                raise ImageError(f"{self._where}: ends in the middle of its {self._name} data")
        try:
            self._output = memoryview(self._decoder.decompress(piece))
        except (zlib.error, OSError, lzma.LZMAError, zstandard.ZstdError, EOFError) as error:
            raise ImageError(f"{self._where}: damaged {self._name} data: {error}") from error
        if self._decoder.eof:
            self._input = self._decoder.unused_data
            self._decoder = None
        return True

    def _next_member(self) -> bool:
        while len(self._input) < _LONGEST_MAGIC:
            more = self._source.read(_PIECE)
            if not more:
                break
            self._input = (self._input + more).lstrip(b"\0")
        self._input = self._input.lstrip(b"\0")
        if not self._input:
            return False
        magics, factory = _FORMATS[self._name]
        if not self._input.startswith(magics):
            raise ImageError(f"{self._where}: something else follows its {self._name} data")
        self._decoder = factory()
        return True


def open_plain(source: io.RawIOBase, *, where: str) -> tuple[io.BufferedReader, str | None]:
    """The plain bytes of a stream that may be compressed, and the compression's name (None for plain)."""
    stream = buffered(source)
    name = detect(stream.peek(_LONGEST_MAGIC))
    return (stream if name is None else buffered(Decompressed(stream, name, where=where))), name
