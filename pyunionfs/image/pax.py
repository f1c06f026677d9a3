"""PAX extended headers: records of ``length key=value`` before an entry (POSIX.1-2017, pax, "ustar and pax").

Values stay bytes: they may be binary (xattrs) or names that are no UTF-8, whatever the standard says.
"""

import re
from collections.abc import Iterator

from pyunionfs.image.errors import ImageError, show

XATTR_PREFIX = b"SCHILY.xattr."

_DECIMAL = re.compile(rb"(-?)([0-9]{1,20})(?:\.([0-9]*))?")
_MAX_SECONDS = (1 << 63) - 1


def records(block: bytes, *, where: str) -> Iterator[tuple[bytes, bytes]]:
    """The records in their order, repeated keys included (GNU sparse 0.0 needs both). Raises ImageError."""
    position = 0
    while position < len(block):
        space = block.find(b" ", position, position + 21)
        digits = block[position:space] if space > 0 else b""
        if not digits.isdigit():
            if not block[position:].strip(b"\0"):
                return  # padding inside the record area: some writers count it in
            raise ImageError(f"{where}: damaged extended header (no record length)")
        end = position + int(digits)
        key, equals, value = block[space + 1 : end - 1].partition(b"=")
        if end > len(block) or end <= space + 1 or block[end - 1 : end] != b"\n" or not equals or not key:
            raise ImageError(
                f"{where}: damaged extended header (bad record {show(block[position : position + 60])})"
            )
        yield key, value
        position = end


def integer(value: bytes, *, where: str, key: str) -> int:
    """A decimal number of a record (uid, gid, size). Raises ImageError."""
    if not value.isdigit() or len(value) > 20:
        raise ImageError(f"{where}: {key} is no number: {show(value)}")
    return int(value)


def nanoseconds(value: bytes, *, where: str, key: str) -> int:
    """A time of a record, ``-86400.5``, as nanoseconds since the epoch; no float rounds it."""
    match = _DECIMAL.fullmatch(value)
    if not match or int(match[2]) > _MAX_SECONDS:
        raise ImageError(f"{where}: {key} is no time: {show(value)}")
    total = int(match[2]) * 10**9 + int((match[3] or b"")[:9].ljust(9, b"0"))
    return -total if match[1] else total
