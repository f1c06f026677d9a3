"""Maps of sparse files: which pieces of a file have data; the rest are holes.

Four dialects, all GNU tar's (its manual, "Storing Sparse Files"): the old header of type ``S``, and PAX
0.0 (repeated ``GNU.sparse.offset``/``numbytes``), 0.1 (``GNU.sparse.map``) and 1.0 (map ahead of the data).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pyunionfs.image.errors import ImageError
from pyunionfs.image.pax import integer

BLOCK = 512
_LINE = re.compile(rb"([0-9]{1,20})\n")


@dataclass(frozen=True, slots=True)
class Piece:
    """``size`` bytes of data at ``offset`` of the unpacked file."""

    offset: int
    size: int


def checked(pieces: Iterable[Piece], *, data: int, real: int, where: str) -> tuple[Piece, ...]:
    """The map if it is in order, inside a file of ``real`` bytes, and uses exactly ``data`` bytes."""
    result = tuple(piece for piece in pieces if piece.size)
    position = used = 0
    for piece in result:
        if piece.offset < position or piece.offset + piece.size > real:
            raise ImageError(f"{where}: its sparse map is out of order or reaches past the end of the file")
        position = piece.offset + piece.size
        used += piece.size
    if used != data:
        raise ImageError(f"{where}: its sparse map speaks of {used} bytes, and {data} are there")
    return result


def paired(numbers: list[int], *, limit: int, where: str) -> list[Piece]:
    """Offsets and sizes, alternating. Raises ImageError for an odd count or more than ``limit`` pieces."""
    if len(numbers) % 2 or len(numbers) > 2 * limit:
        raise ImageError(f"{where}: its sparse map is damaged or has more than {limit} pieces")
    return [Piece(numbers[i], numbers[i + 1]) for i in range(0, len(numbers), 2)]


def from_map(value: bytes, *, limit: int, where: str) -> list[Piece]:
    """PAX 0.1: ``offset,size,offset,size``."""
    parts = value.split(b",") if value else []
    return paired([integer(p, where=where, key="GNU.sparse.map") for p in parts], limit=limit, where=where)


def from_data(read_block: Callable[[], bytes], *, limit: int, where: str) -> list[Piece]:
    """PAX 1.0: a count, then as many offsets and sizes, a line each, in whole blocks before the data."""
    text = read_block()
    numbers: list[int] = []
    position = 0
    while not numbers or len(numbers) < 1 + 2 * numbers[0]:
        match = _LINE.match(text, position)
        if match is None:
            if len(text) - position > 21:
                raise ImageError(f"{where}: its sparse map is damaged")
            text, position = text[position:] + read_block(), 0
            continue
        numbers.append(int(match[1]))
        position = match.end()
        if numbers[0] > limit:
            raise ImageError(f"{where}: its sparse map has more than {limit} pieces")
    return paired(numbers[1:], limit=limit, where=where)
