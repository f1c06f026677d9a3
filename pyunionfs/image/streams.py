"""Small readers that are put one behind the other: a piece of a file, a tap that shows what flows past.

All are ``io.RawIOBase``; wrap the last in ``io.BufferedReader`` to read by the byte.
"""

import io
import os
from collections.abc import Callable
from typing import Any

from pyunionfs.image.errors import ImageError

# Large enough to make calls rare, small enough to stay in the processor's cache.
CHUNK = 256 * 1024

Sink = Callable[[memoryview], object]


def buffered(source: io.RawIOBase) -> io.BufferedReader:
    """``source`` to be read by the byte. Closing the result closes it."""
    raw: Any = source  # the type stubs make the class generic over what it wraps
    return io.BufferedReader(raw, CHUNK)


class Slice(io.RawIOBase):
    """``size`` bytes of an open file from ``offset`` on; by pread(2), so slices do not disturb each other."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._position = offset
        self._end = offset + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self._end - self._position)]
        count = os.preadv(self._fd, [view], self._position) if view.nbytes else 0
        self._position += count
        return count


class Tap(io.RawIOBase):
    """Passes ``source`` on unchanged and shows each piece to every sink (a hash, a file, a progress bar)."""

    def __init__(self, source: io.BufferedReader, *sinks: Sink) -> None:
        self._source = source
        self._sinks = sinks

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._source.readinto(buffer)
        if count:
            view = memoryview(buffer)[:count]
            for sink in self._sinks:
                sink(view)
        return count

    def close(self) -> None:
        self._source.close()
        super().close()


class Budget:
    """Raises ImageError once more than ``limit`` bytes of memory were asked for, by guess."""

    _OBJECT = 400  # bytes that a name and what hangs on it cost Python

    def __init__(self, limit: int, what: str) -> None:
        self._left = limit
        self._what = what

    def spend(self, size: int) -> None:
        """Account for one object with ``size`` bytes in it."""
        self._left -= size + self._OBJECT
        if self._left < 0:
            raise ImageError(f"{self._what}: asks for more memory than is allowed")


class Meter:
    """A sink that raises ImageError once more than ``limit`` bytes flowed past."""

    def __init__(self, limit: int, what: str) -> None:
        self.count = 0
        self._limit = limit
        self._what = what

    def __call__(self, piece: memoryview) -> None:
        self.count += piece.nbytes
        if self.count > self._limit:
            raise ImageError(f"{self._what}: more than the allowed {self._limit} bytes, uncompressed")


def drain(stream: io.BufferedReader) -> int:
    """Read to the end, for the sake of the taps on the way; the number of bytes that were left."""
    buffer = bytearray(CHUNK)
    total = 0
    while count := stream.readinto(buffer):
        total += count
    return total


def read_bounded(stream: io.RawIOBase, limit: int, what: str) -> bytes:
    """The whole stream, which may not exceed ``limit`` bytes. Raises ImageError."""
    with buffered(stream) as reader:
        data = reader.read(limit + 1)
    if len(data) > limit:
        raise ImageError(f"{what}: more than the allowed {limit} bytes")
    return data
