"""Pure rules: what stacked findings mean, for one name (:func:`resolve`) and for a listing (:func:`listing`).

No I/O here. ``search.py`` and ``readdir.py`` act on these rules, ``views/explain.py`` prints them and the
tests enumerate them. Kernel: ovl_lookup() in fs/overlayfs/namei.c, ovl_dir_read_merged() in readdir.c;
overlayfs.rst, "Merging", "whiteouts and opaque directories".

A name is looked for in the layers that have its parent directory, from the top:

1. A whiteout ends the search; what lies below it is hidden.
2. The first object found, if it is not a directory, is the answer and ends the search.
3. A directory joins the directories found above it: together they are one merged directory.
4. An opaque directory does so too and then ends the search.
5. Below a directory, an object that is not a directory is hidden and ends the search.
6. If no layer has the name, it does not exist.
7. A metacopy, which is a file without data, is the answer; the search goes on for its data.
8. Below a metacopy, the first regular file that is no metacopy provides the data and ends the search.
9. Below a metacopy, anything else ends the search: the data is missing.

Where a redirect was found, the layers below are searched under the path that it says. That changes where
``search.py`` looks, and none of the rules.
"""

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """What one layer has under a name."""

    ABSENT = "absent"
    WHITEOUT = "whiteout"
    DIRECTORY = "directory"
    OPAQUE = "opaque directory"
    FILE = "file"
    METACOPY = "metacopy"
    OTHER = "other object"  # symlink, fifo, socket or device

    __hash__ = object.__hash__  # Enum's own is written in Python, and this is asked for at every look-up


class Rule(Enum):
    """Which of the numbered rules above a layer's finding met."""

    WHITEOUT = 1
    FIRST = 2
    MERGES = 3
    OPAQUE = 4
    HIDDEN = 5
    ABSENT = 6
    METACOPY = 7
    DATA = 8
    NO_DATA = 9
    NOT_REACHED = 0  # the search had ended above

    __hash__ = object.__hash__

    def __init__(self, number: int) -> None:
        self.ends = number in (1, 2, 4, 5, 8, 9)
        """Whether the search stops here."""
        self.provides = number in (2, 3, 4, 7, 8)
        """Whether this layer's object is part of the answer."""


_ALONE = {
    Kind.ABSENT: Rule.ABSENT,
    Kind.WHITEOUT: Rule.WHITEOUT,
    Kind.DIRECTORY: Rule.MERGES,
    Kind.OPAQUE: Rule.OPAQUE,
    Kind.FILE: Rule.FIRST,
    Kind.METACOPY: Rule.METACOPY,
    Kind.OTHER: Rule.FIRST,
}
_BELOW_DIRECTORY = _ALONE | {Kind.FILE: Rule.HIDDEN, Kind.METACOPY: Rule.HIDDEN, Kind.OTHER: Rule.HIDDEN}
_BELOW_METACOPY = _ALONE | {
    Kind.FILE: Rule.DATA,
    Kind.WHITEOUT: Rule.NO_DATA,
    Kind.DIRECTORY: Rule.NO_DATA,
    Kind.OPAQUE: Rule.NO_DATA,
    Kind.OTHER: Rule.NO_DATA,
}


def judge(kind: Kind, above: Rule | None) -> Rule:
    """Apply the rules to one finding; ``above`` is that of the nearest layer above which provides, if any."""
    if above is None:
        return _ALONE[kind]
    return (_BELOW_METACOPY if above is Rule.METACOPY else _BELOW_DIRECTORY)[kind]


class Resolution(NamedTuple):
    """The answer for a name: the layers that provide it, top to bottom; none if it does not exist."""

    providers: tuple[int, ...]
    rules: tuple[Rule, ...]  # a rule for each finding that was asked for

    @property
    def exists(self) -> bool:
        return bool(self.providers)

    @property
    def lacks_data(self) -> bool:
        """Whether it is a metacopy for which no data was found."""
        return self.exists and self.rules[self.providers[-1]] is Rule.METACOPY


def resolve(findings: Iterable[Kind]) -> Resolution:
    """Resolve a name from what the layers have, top to bottom.

    ``findings`` is asked for no more than is needed, so it may be a generator that probes a disk.
    """
    providers: list[int] = []
    rules: list[Rule] = []
    above: Rule | None = None
    for index, kind in enumerate(findings):
        rule = judge(kind, above)
        rules.append(rule)
        if rule.provides:
            providers.append(index)
            above = rule
        if rule.ends:
            break
    return Resolution(tuple(providers), tuple(rules))


def listing(directories: Iterable[Iterable[tuple[bytes, int, bool]]]) -> dict[bytes, int]:
    """Merge listings of the directories of one merged directory, top to bottom.

    Each entry is ``(name, type, is_whiteout)``. The first layer that has a name decides: its type is taken,
    or, if it is a whiteout, the name is hidden. Returns types by name, in order of appearance.
    """
    merged: dict[bytes, int] = {}
    hidden: set[bytes] = set()
    for entries in directories:
        below: set[bytes] = set()  # a directory has no name twice, so its own entries need no check
        for name, kind, is_whiteout in entries:
            if is_whiteout:
                below.add(name)
            elif name not in hidden and name not in merged:
                merged[name] = kind
        hidden |= below - merged.keys()
    return merged
