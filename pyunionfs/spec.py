"""What is mounted and how: the description of a mount, and the texts in which people write one."""

import errno
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .overlay.params import OPTIONS
from .transport import options as transport_options

Options = Mapping[str, str | bool | None]
TRANSPORT_OPTIONS = frozenset(transport_options.VALUES)
"""Mount options that say how the kernel is served."""
FUSE_FLAGS = frozenset(
    ("ro", "rw", "dev", "nodev", "suid", "nosuid", "exec", "noexec", "atime", "noatime", "sync", "async", "dirsync")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSpec:
    """What to mount and how; paths may be relative, ``lower`` goes from top to bottom."""

    lower: Sequence[str]
    mountpoint: str
    upper: str | None = None
    work: str | None = None
    data: Sequence[str] = ()  # data-only layers, below the lower ones
    options: Options = field(default_factory=dict)
    allow_other: bool | None = None  # None: as root yes, otherwise no
    image: str | None = None
    source: str = "pyunionfs"  # what mount(8) shows as mounted
    log_file: str | None = None  # where copy-ups and problems are reported
    foreground: bool = False  # on stderr, if not

    def absolute(self) -> "MountSpec":
        """The same, independent of the working directory."""
        return replace(
            self,
            lower=[os.path.abspath(path) for path in self.lower],
            data=[os.path.abspath(path) for path in self.data],
            upper=os.path.abspath(self.upper) if self.upper is not None else None,
            work=os.path.abspath(self.work) if self.work is not None else None,
            mountpoint=os.path.abspath(self.mountpoint),
            log_file=os.path.abspath(self.log_file) if self.log_file is not None else None,
        )

    def check(self) -> None:
        """Raises OSError with a sentence for a mount point that cannot be one."""
        if not os.path.isdir(self.mountpoint):
            raise OSError(errno.ENOENT, f"mount point {self.mountpoint} is not a directory")
        point = os.path.realpath(self.mountpoint)
        for what, path in (("upper", self.upper), ("work", self.work)):
            if path is not None and (point + "/").startswith(os.path.realpath(path) + "/"):
                raise OSError(errno.EINVAL, f"mount point {self.mountpoint} is inside the {what} directory {path}")

    def overlay_options(self) -> dict[str, str | bool | None]:
        names = {option.name for option in OPTIONS}
        mine = FUSE_FLAGS | TRANSPORT_OPTIONS
        return {name: value for name, value in self.options.items() if name in names or name not in mine}

    def fuse_options(self) -> set[str]:
        """Options of the FUSE mount; what a mount by root would allow on any other filesystem is allowed."""
        allow_other = os.geteuid() == 0 if self.allow_other is None else self.allow_other
        chosen = {name for name in self.options if name in FUSE_FLAGS}
        if os.geteuid() == 0:
            chosen |= {"dev"} if "nodev" not in chosen else set()
            chosen |= {"suid"} if "nosuid" not in chosen else set()
        if self.upper is None:
            chosen.add("ro")
        if allow_other:
            chosen.add("allow_other")
        return chosen | {f"fsname={self.source}", "subtype=pyunionfs"}


def option_words(options: Options) -> list[str]:
    words = []
    for name, value in options.items():
        text = "on" if value is True else "off" if value is False else value
        words.append(name if text is None else f"{name}={text}")
    return words


def split_options(text: str) -> list[str]:
    """Split ``key=value,key`` at its commas; ``\\,`` is a comma of a value, and empty words are left out."""
    return [word.replace("\\,", ",") for word in re.findall(r"(?:\\.|[^,\\])+", text, re.DOTALL)]


def escape(path: str) -> str:
    """Write a path as an element of a ``:``-separated list of layers."""
    return path.replace("\\", "\\\\").replace(":", "\\:")


def join_layers(lower: Sequence[str], data: Sequence[str] = ()) -> str:
    """Inverse of :func:`split_lower`."""
    return "".join([":".join(map(escape, lower)), *("::" + escape(path) for path in data)])


def split_lower(text: str) -> tuple[list[str], list[str]]:
    """Split ``a:b::c::d`` into the layers ``a`` and ``b`` and the data-only layers ``c`` and ``d``.

    Raises OSError(EINVAL) for an empty element, and for a layer after a data-only one (ovl_parse_param_lowerdir).
    """
    lower: list[str] = []
    data: list[str] = []
    doubled = False  # the colon before this element is
    for element in _split(text):
        if not element and (doubled or not lower):
            raise _empty_layer(text)
        if element and data and not doubled:
            raise OSError(errno.EINVAL, f"a layer follows a data-only layer in {text!r}")
        if element:
            (data if doubled else lower).append(element)
        doubled = not element
    if doubled:
        raise _empty_layer(text)
    return lower, data


def split_layers(text: str) -> list[str]:
    """Split ``a:b:c`` at its colons; ``\\:`` is a colon of a path, ``\\\\`` a backslash.

    Raises OSError(EINVAL) for an empty element.
    """
    layers = _split(text)
    if not all(layers):
        raise _empty_layer(text)
    return layers


def _split(text: str) -> list[str]:
    layers, current, chars = [], "", iter(text)
    for char in chars:
        if char == "\\":
            current += next(chars, "\\")
        elif char == ":":
            layers.append(current)
            current = ""
        else:
            current += char
    return [*layers, current]


def _empty_layer(text: str) -> OSError:
    return OSError(errno.EINVAL, f"empty layer in {text!r} (write a colon of a path as \\:)")
