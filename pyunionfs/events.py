"""What the core tells whoever listens: the moments in which a union filesystem does what makes it one.

Teaching views, logs and tests subscribe; with no listener an event costs one truth test. Paths are those of
the merged view, relative to its root.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CopyUp:
    """An object of a lower layer now has its own copy in the upper directory."""

    path: bytes
    size: int  # bytes of data that were copied; none for metadata alone (metacopy)
    layer: int  # where it was copied from; 0 is the upper layer, 1 the topmost lower one


@dataclass(frozen=True, slots=True)
class Whiteout:
    """A name of a lower layer is now hidden."""

    path: bytes


@dataclass(frozen=True, slots=True)
class Opaque:
    """A directory now hides those of the same name below it."""

    path: bytes


@dataclass(frozen=True, slots=True)
class Redirect:
    """An upper object now says under which path the layers below have the rest of it."""

    path: bytes
    target: bytes  # a name in the same directory, or a path that begins with a slash


Event = CopyUp | Whiteout | Opaque | Redirect
Listener = Callable[[Event], None]
