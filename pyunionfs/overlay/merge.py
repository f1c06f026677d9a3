"""Pure rules: what stacked findings mean, for one name (:func:`resolve`) and for a listing (:func:`listing`).

No I/O here. ``lookup.py`` and ``readdir.py`` act on these rules, ``views/explain.py`` prints them and the
tests enumerate them. Kernel: ovl_lookup() in fs/overlayfs/namei.c, ovl_dir_read_merged() in readdir.c;
overlayfs.rst, "Merging", "whiteouts and opaque directories".

A name is looked for in the layers that have its parent directory, from the top:

1. A whiteout ends the search; what lies below it is hidden.
2. The first object found, if it is not a directory, is the answer and ends the search.
3. A directory joins the directories found above it: together they are one merged directory.
4. An opaque directory does so too and then ends the search.
5. Below a directory, an object that is not a directory is hidden and ends the search.
6. If no layer has the name, it does not exist.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What one layer has under a name."""

    ABSENT = "absent"
    WHITEOUT = "whiteout"
    DIRECTORY = "directory"
    OPAQUE = "opaque directory"
    OTHER = "other object"  # regular file, symlink, fifo, socket or device


class Rule(Enum):
    """Which of the numbered rules above a layer's finding met."""

    WHITEOUT = 1
    FIRST = 2
    MERGES = 3
    OPAQUE = 4
    HIDDEN = 5
    ABSENT = 6
    NOT_REACHED = 0  # the search had ended above

    @property
    def ends(self) -> bool:
        """Whether the search stops here."""
        return self in _ENDS

    @property
    def provides(self) -> bool:
        """Whether this layer's object is part of the answer."""
        return self in _PROVIDES


_ENDS = frozenset({Rule.WHITEOUT, Rule.FIRST, Rule.OPAQUE, Rule.HIDDEN})
_PROVIDES = frozenset({Rule.FIRST, Rule.MERGES, Rule.OPAQUE})


def judge(kind: Kind, *, below_directory: bool) -> Rule:
    """Apply the rules to one finding; ``below_directory`` says that a directory was found above it."""
    if kind is Kind.ABSENT:
        return Rule.ABSENT
    if kind is Kind.WHITEOUT:
        return Rule.WHITEOUT
    if kind is Kind.DIRECTORY:
        return Rule.MERGES
    if kind is Kind.OPAQUE:
        return Rule.OPAQUE
    return Rule.HIDDEN if below_directory else Rule.FIRST


@dataclass(frozen=True, slots=True)
class Resolution:
    """The answer for a name: the layers that provide it, top to bottom; none if it does not exist."""

    providers: tuple[int, ...]
    rules: tuple[Rule, ...]  # a rule for each finding that was asked for

    @property
    def exists(self) -> bool:
        return bool(self.providers)


def resolve(findings: Iterable[Kind]) -> Resolution:
    """Resolve a name from what the layers have, top to bottom.

    ``findings`` is asked for no more than is needed, so it may be a generator that probes a disk.
    """
    providers: list[int] = []
    rules: list[Rule] = []
    for index, kind in enumerate(findings):
        rule = judge(kind, below_directory=bool(providers))
        rules.append(rule)
        if rule.provides:
            providers.append(index)
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
