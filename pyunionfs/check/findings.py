"""What a check can find: one :class:`Problem` for each class of finding, as a table.

The names are stable, for programs; so are the keys of :meth:`Report.as_json`. What ``repair`` says is done by
``repair.py``, to a finding whose ``repair`` is not empty: the same class may be safe to repair here and not there.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..overlay.backing import Backing


class Severity(Enum):
    """How bad it is: a note, something that should not be there, or something that is lost or refused."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_INFO, _WARNING, _ERROR = Severity


@dataclass(frozen=True, slots=True)
class Problem:
    """A class of findings."""

    name: str
    severity: Severity
    heading: str  # what they have in common, over a list of them
    repair: str = ""  # what --repair does about them, empty if nothing

    def __str__(self) -> str:
        return self.name


UNREADABLE = Problem("unreadable", _ERROR, "cannot be looked at")

VOLATILE = Problem("volatile", _ERROR, "mounted volatile: what was written last may be lost")
INCOMPATIBLE = Problem("incompatible", _ERROR, "the work directory is marked with a feature that nobody knows here")
LEFTOVER = Problem("leftover", _WARNING, "leftovers of operations that were cut short", "remove")
KEPT_WHITEOUT = Problem("kept-whiteout", _INFO, "whiteouts kept in the work directory to link from", "remove")
CLOSED_WORK = Problem("closed-work", _INFO, "without permissions, as the kernel makes it, and not looked into")

STALE_WHITEOUT = Problem("stale-whiteout", _WARNING, "whiteouts that hide nothing", "remove")
PURE_WHITEOUT = Problem(
    "pure-whiteout", _WARNING, "whiteouts in directories with nothing below; the kernel lists them", "remove"
)
UNMARKED_WHITEOUT = Problem(
    "unmarked-whiteout", _WARNING, "xattr whiteouts in directories that are not marked opaque=x"
)
NEEDLESS_OPAQUE = Problem("needless-opaque", _INFO, "opaque directories with nothing below to hide (harmless)")
TAR_WHITEOUT = Problem("tar-whiteout", _INFO, "whiteouts as image layers have them (a layer unpacked as it is?)")

MALFORMED_REDIRECT = Problem("malformed-redirect", _ERROR, "redirects that cannot be read")
DANGLING_REDIRECT = Problem("dangling-redirect", _ERROR, "redirects to nowhere: what was below is not shown")
DOUBLE_REDIRECT = Problem("double-redirect", _WARNING, "several directories redirected to the same lower one")

MALFORMED_METACOPY = Problem("malformed-metacopy", _ERROR, "metacopy marks that cannot be read")
MISSING_DATA = Problem("missing-data", _ERROR, "metacopies without data below: they cannot be opened")
METACOPY_SIZE = Problem("metacopy-size", _WARNING, "metacopies of another size than their data")

MALFORMED_INDEX = Problem("malformed-index", _ERROR, "damaged index entries: index=on may be refused")
STALE_INDEX = Problem("stale-index", _WARNING, "index entries of lower objects that are gone", "remove")
ORPHAN_INDEX = Problem(
    "orphan-index", _INFO, "index entries that no name leads to (a mount removes them)", "remove"
)
OTHER_UPPER = Problem("other-upper", _ERROR, "the index belongs to another upper directory: index=on is refused")
OTHER_LOWER = Problem("other-lower", _WARNING, "made with another top lower layer: index=on is refused")

MALFORMED_ORIGIN = Problem("malformed-origin", _INFO, "origins that cannot be read (st_ino is that of the copy)")
STALE_ORIGIN = Problem("stale-origin", _INFO, "copies of lower objects that are gone (st_ino is that of the copy)")
MISSING_IMPURE = Problem(
    "missing-impure", _WARNING, "directories with copied-up entries, not marked impure", "mark impure"
)

FOREIGN_MARK = Problem("foreign-mark", _INFO, "marks of the other xattr namespace: they mean nothing here")
OTHER_NAMESPACE = Problem("other-namespace", _WARNING, "all marks are of the other xattr namespace")
UNKNOWN_MARK = Problem("unknown-mark", _WARNING, "marks of unknown names")
MEANINGLESS_MARK = Problem("meaningless-mark", _INFO, "marks that mean nothing where they are")

PROBLEMS: dict[str, Problem] = {item.name: item for item in list(globals().values()) if isinstance(item, Problem)}


@dataclass(slots=True)
class Finding:
    """One thing that was found."""

    problem: Problem
    path: bytes  # relative to the upper directory, or to the work directory
    message: str  # a plain sentence about this one
    in_work: bool = False
    repair: str = ""  # what --repair does, or did, about it
    repaired: bool = False
    target: Backing | None = field(default=None, repr=False, compare=False)

    @property
    def shown_path(self) -> str:
        """The path as people see it; ``WORK/`` stands for the work directory."""
        path = os.fsdecode(self.path) or "."
        return f"WORK/{path}" if self.in_work else path


@dataclass(slots=True)
class Report:
    """The outcome of a check."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what could not be looked at, and why
    objects: int = 0  # how many were looked at in the upper directory

    def add(
        self,
        problem: Problem,
        backing: Backing,
        message: str,
        *,
        in_work: bool = False,
        repair: bool = True,
    ) -> None:
        """Note a finding; ``repair=False`` if this one is not safe to repair."""
        how = problem.repair if repair else ""
        self.findings.append(Finding(problem, backing.path(), message, in_work, how, target=backing))

    @property
    def bad(self) -> bool:
        """Whether warnings or errors are left."""
        return any(item.problem.severity is not _INFO and not item.repaired for item in self.findings)

    def count(self) -> dict[str, int]:
        """How many findings of each severity are left, how many were repaired, and of how many objects."""
        left = Counter(item.problem.severity for item in self.findings if not item.repaired)
        counts = {severity.value: left[severity] for severity in Severity}
        counts["repaired"] = sum(item.repaired for item in self.findings)
        counts["objects"] = self.objects
        return counts

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "findings": [
                {
                    "name": item.problem.name,
                    "severity": item.problem.severity.value,
                    "in": "work" if item.in_work else "upper",
                    "path": os.fsdecode(item.path) or ".",
                    "message": item.message,
                    "repair": item.repair or None,
                    "repaired": item.repaired,
                }
                for item in self.findings
            ],
            "notes": self.notes,
            "summary": self.count(),
        }
