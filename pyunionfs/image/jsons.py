"""JSON from strangers: bounded in size and depth, and with each value's type checked where it is used."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pyunionfs.image.errors import ImageError, show
from pyunionfs.image.limits import Limits

T = TypeVar("T")

# Whole strings are matched first, so that brackets inside them do not count.
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _depth(text: str) -> int:
    deepest = depth = 0
    for match in _TOKENS.finditer(text):
        token = match.group()
        if token in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token in "]}":
            depth -= 1
    return deepest


def parse(data: bytes, *, where: str, limits: Limits) -> Any:
    """The value of a JSON document (RFC 8259).

    The caller has bounded ``len(data)`` by ``limits.max_json`` when reading. Raises ImageError for what is
    not UTF-8, not JSON, or nested deeper than ``limits.max_json_depth``.
    """
    if len(data) > limits.max_json:
        raise ImageError(f"{where}: more than {limits.max_json} bytes of JSON")
    try:
        text = data.decode("utf-8-sig")
        if _depth(text) > limits.max_json_depth:
            raise ImageError(f"{where}: JSON nested deeper than {limits.max_json_depth}")
        return json.loads(text, parse_constant=_refuse_constant)
    except ImageError:
        raise
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{where}: not valid JSON: {error}") from error


def expect(value: Any, kind: type[T], *, what: str) -> T:
    """``value`` if it is a ``kind``; a bool is not an int here. Raises ImageError."""
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ImageError(f"{what}: expected {_NAMES.get(kind, kind.__name__)}, found {show(json.dumps(value))}")


def member(table: dict[str, Any], key: str, kind: type[T], default: T, *, what: str) -> T:
    """``table[key]`` checked to be a ``kind``; ``default`` where the key is absent or null."""
    value = table.get(key)
    return default if value is None else expect(value, kind, what=f"{what}: {key}")


def strings(value: Any, *, what: str) -> list[str]:
    """A list of strings; null counts as an empty one, as Go's encoder writes it."""
    return [] if value is None else [expect(item, str, what=what) for item in expect(value, list, what=what)]


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Around the reading of a table of our own: whatever is wrong with it is an ImageError that names the file."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{path} is damaged: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ImageError(f"{path} is damaged: {type(error).__name__}: {error}") from None


_NAMES = {dict: "an object", list: "an array", str: "a string", int: "a number", bool: "true or false"}
