"""Looking at a union from outside: which layers a path belongs to, mounted or not.

The views never ask a daemon about files. They open the same layers themselves, read-only, with the upper
directory as the topmost layer, and apply the same rules (``overlay.merge``) by the same code.
"""

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..overlay.fs import Overlay

_OF_LOOKUP = ("redirect_dir", "metacopy", "verity", "posix", "xattr_permissions")


@dataclass(frozen=True, slots=True)
class Union:
    """The directories of a union, and of its mount options those that say what is found in them."""

    lower: Sequence[str]
    upper: str | None
    userxattr: bool = False
    data: Sequence[str] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_mount(cls, info: Mapping[str, Any]) -> "Union":
        """The union that a live mount tells of (:mod:`pyunionfs.transport.mount`)."""
        options = {name: value for name, value in info["options"].items() if name in _OF_LOOKUP}
        return cls(info["lower"], info["upper"], bool(info["userxattr"]), info["data"], options)

    @property
    def stack(self) -> list[str]:
        """All layers, top to bottom."""
        return ([self.upper] if self.upper is not None else []) + list(self.lower)

    def label(self, index: int) -> str:
        """What a layer is called: ``upper``, ``lower 0``, ``lower 1``..."""
        if self.upper is None:
            return f"lower {index}"
        return "upper" if index == 0 else f"lower {index - 1}"

    def open(self) -> Overlay:
        """The merged view as it is now, read-only."""
        return self._open(self.stack)

    def open_lower(self) -> Overlay:
        """The merged view as it would be without the upper directory."""
        if not self.lower:
            raise OSError(errno.EINVAL, "the lower layers are not known")
        return self._open(self.lower)

    def _open(self, layers: Sequence[str]) -> Overlay:
        options: dict[str, str | bool | None] = {"userxattr": self.userxattr, **self.options}
        if not self.userxattr:  # to look at what a mount without the option refuses
            options.setdefault("metacopy", "on")
        return Overlay(layers, data=self.data, options=options)


def relative(path: str, root: str) -> bytes:
    """A path below a mount point, relative to it, without resolving its last component."""
    head, tail = os.path.split(os.path.abspath(path))
    real = os.path.join(os.path.realpath(head), tail)
    inside = os.path.relpath(real, os.path.realpath(root))
    return b"" if inside == "." else os.fsencode(inside)
