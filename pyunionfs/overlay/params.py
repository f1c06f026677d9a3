"""Mount options, as a table: names, values and defaults are the kernel's (fs/overlayfs/params.c).

An option that the kernel has and we do not implement yet is accepted with the value that we behave as, and
refused with any other: a silent difference would be worse than an error.
"""

import errno
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Option:
    """One mount option: the values it may have, the first being the default, and what it means."""

    name: str
    values: tuple[str, ...]
    help: str
    unsupported: tuple[str, ...] = ()  # values that the kernel knows and we do not yet


OPTIONS: tuple[Option, ...] = (
    Option("userxattr", ("off", "on"), "keep the marks in user.overlay.* instead of trusted.overlay.*"),
    Option("redirect_dir", ("off", "nofollow"), "rename lower directories by redirect", ("on", "follow")),
    Option("index", ("off",), "keep hard links of lower files together over copy-up", ("on",)),
    Option("metacopy", ("off",), "copy up metadata without data", ("on",)),
    Option("xino", ("off", "auto"), "compose inode numbers from layer and inode", ("on",)),
    Option("nfs_export", ("off",), "allow export over NFS", ("on",)),
    Option("volatile", ("off",), "omit all syncs to the upper filesystem", ("on",)),
)
_BY_NAME = {option.name: option for option in OPTIONS}


@dataclass(frozen=True, slots=True)
class Params:
    """The options of one mount, checked."""

    userxattr: bool = False


def parse(options: Mapping[str, str | bool | None]) -> Params:
    """Check options given as ``name: value``; None, True and "" mean "on", False means "off".

    Raises OSError(EINVAL) with a sentence for what is unknown or unsupported.
    """
    chosen = {option.name: option.values[0] for option in OPTIONS}
    for name, raw in options.items():
        option = _BY_NAME.get(name)
        if option is None:
            known = ", ".join(_BY_NAME)
            raise OSError(errno.EINVAL, f"unknown mount option {name!r} (known: {known})")
        value = "on" if raw in (None, True, "") else "off" if raw is False else str(raw)
        if value in option.unsupported:
            raise OSError(errno.EINVAL, f"mount option {name}={value} is not supported yet")
        if value not in option.values:
            raise OSError(errno.EINVAL, f"mount option {name}={value}: not one of {', '.join(option.values)}")
        chosen[name] = value
    return Params(userxattr=chosen["userxattr"] == "on")
