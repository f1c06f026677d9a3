"""Tables of what is known to be neither the old nor the new view, and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from cases import Case
from unions import Options


@dataclass(frozen=True)
class Known:
    """One reason, and where it shows: names of cases -> names of their points, both as shell patterns.

    ``only`` and ``unless`` name a mount option with which alone, or without which alone, it does.
    """

    why: str
    where: Mapping[str, tuple[str, ...]]
    only: str = ""
    unless: str = ""


BROKEN_LINK = Known(
    "a copy-up parts a hard link from its other names (overlayfs.rst, Non-standard behavior)",
    {"link one of two lower hard links": ("utime .*", "setxattr twin *redirect*", "link *")},
    unless="index",
)
SUID_FIRST = Known(
    "the setuid bits go before the data does (file_remove_privs)",
    {"write to a setuid file": ("pwrite *",), "truncate a setuid file": ("ftruncate*",)},
)


def known(table: Iterable[Known], case: Case, options: Options, points: Iterable[str]) -> dict[str, str]:
    """The points of a case that a table tells of, with the reasons."""
    names = list(points)
    return {
        name: entry.why
        for entry in table
        if (not entry.only or entry.only in options) and entry.unless not in options
        for pattern, patterns in entry.where.items()
        if fnmatchcase(case.name, pattern)
        for name in names
        if any(fnmatchcase(name, point) for point in patterns)
    }
