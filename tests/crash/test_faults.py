"""A full disk, a broken one, no descriptors left: the caller is told, nothing has changed, the next try works.

Each case meets a failure at each call that changes the upper or the work directory or opens something
(``faults.py`` says how, and what is right). The default profile takes the likeliest error of each call, ``--long``
all of them.
"""

import errno
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from cases import Case
from faults import Faults
from option_sets import OptionSet
from rehearsal import Rehearsal

Table = dict[str, dict[str, tuple[str, ...]]]

# Why an operation that failed is half done: case -> points, as shell patterns. These are the kernel's too.
ACCEPTED: Table = {
    "a copy-up parts a hard link from its other names (overlayfs.rst, Non-standard behavior)": {
        "link one of two lower hard links": ("utime .*", "link *")
    },
    "the setuid bits go before the data comes (file_remove_privs)": {"write to a setuid file": ("pwrite *",)},
    "a file that is opened with O_TRUNC is copied up empty (ovl_copy_up_flags)": {
        "open a lower file with O_TRUNC": ("ftruncate*",)
    },
    "chown has cleared the setuid bits that chmod was to clear": {"chown a setuid file": ("open *", "chmod*")},
}
# What is still to be mended. When it is, the test says so.
_CLEARING = ("unlink #*", "rmdir #*")
BUGS: Table = {
    "a failure to clear away what was replaced is told as a failure of the operation": {
        "* under a default ACL for another user": _CLEARING,
        "mkdir over *": ("unlink #*",),
        "rmdir a merged directory": _CLEARING,
        "rmdir a merged directory with whiteouts in it": (
            *_CLEARING, "open #1*", "chmod*", "listdir*", "unlink child*",
        ),
        "rmdir an opaque directory": _CLEARING,
        "rename a new directory over a whiteout": ("unlink made*",),
        "rename a new directory over the whiteout of one": ("unlink made*",),
        "rename a new directory over a merged one": (
            *_CLEARING, "open #1, #2", "chmod, #2", "listdir*", "unlink child*",
        ),
    },
    "the lower directories of one that was replaced stay open": {
        "rename a new directory over a merged one": ("no fault",)
    },
    "a copy of an unlinked file stays open": {"append to a lower file that was unlinked": ("unlink #?, #1",)},
    "the time of the parent that cannot be restored is told as a failure of the copy-up": {
        "open one of two lower hard links for writing": ("utime .*",),
        "open a lower file with O_TRUNC": ("utime .*",),
        "truncate a lower file": ("utime .*",),
    },
    "a file that is to be shortened is copied up short": {"truncate a lower file": ("ftruncate*",)},
    "a setuid file is shortened before its bits are cleared": {"truncate a setuid file": ("fchmod*",)},
}  # fmt: skip


@pytest.mark.usefixtures("needed")
def test_a_failed_call_fails_the_operation_and_changes_nothing(
    case: Case, options: OptionSet, tmp_path: Path, request: pytest.FixtureRequest, tell: Callable[..., None]
) -> None:
    rehearsal = Rehearsal.of(case, options.options, tmp_path)
    faults = Faults(rehearsal, tmp_path)
    everything = request.config.getoption("--long")
    bad = {"no fault": [f"{rehearsal.leaks} descriptors are left open"]} if rehearsal.leaks else {}
    count = 0
    for point, numbers in faults.points():
        for number in numbers if everything else numbers[:1]:
            count += 1
            if wrong := faults.judge(point, number):
                bad.setdefault(faults.name_of(point), []).extend(f"{errno.errorcode[number]}: {w}" for w in wrong)
    names = [faults.name_of(point) for point, _ in faults.points()] + ["no fault"]
    accepted, bugs = _known(ACCEPTED, case, names), _known(BUGS, case, names)
    unknown = bad.keys() - accepted.keys() - bugs.keys()
    tell("fault injection", points=count, bad=len(unknown), known=len(bad) - len(unknown))
    assert not unknown, "\n".join(f"{point}: {line}" for point in sorted(unknown) for line in bad[point])
    assert bugs.keys() <= bad.keys(), f"no longer bad, remove from BUGS: {bugs.keys() - bad.keys()}"
    if bugs:
        pytest.xfail("; ".join(sorted(set(bugs.values()))))


def _known(table: Table, case: Case, names: list[str]) -> dict[str, str]:
    """The points of a case that a table tells of, with the reasons."""
    return {
        name: reason
        for reason, cases in table.items()
        for pattern, points in cases.items()
        if fnmatchcase(case.name, pattern)
        for name in names
        if any(fnmatchcase(name, point) for point in points)
    }
