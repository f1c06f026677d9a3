"""A daemon that dies at any moment leaves the old view or the new one: all operations, all points, no chance.

Each case dies before each of its changes and after the last one (``explorer.py`` says how, and what is right).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cases import Case
from explorer import Explorer
from known import BROKEN_LINK, SUID_FIRST, Known, known
from option_sets import OptionSet
from ordinary import acting_as
from rehearsal import Rehearsal
from tap import Call

ACCEPTED = (BROKEN_LINK, SUID_FIRST)  # these are the kernel's as well
# Bad states that are still to be mended. When one is, the test says so.
BUGS: tuple[Known, ...] = ()

_DATA = {"copy_file_range", "ficlone", "pwrite", "pwritev"}


def test_a_crash_leaves_the_old_view_or_the_new_one(
    case: Case, options: OptionSet, place: Path, can: Callable[[str], bool], tell: Callable[..., None]
) -> None:
    kernel = "kernel_overlay_userxattr" if "userxattr" in options.options else "kernel_overlay"
    compare_with_kernel = options.known_to_kernel and can(kernel)
    with acting_as(options.user):
        rehearsal = Rehearsal.of(case, options.options, place)
        explorer = Explorer(rehearsal, place, compare_with_kernel=compare_with_kernel)
        bad = {explorer.name_of(point): wrong for point in explorer.points() if (wrong := explorer.judge(point))}
    names = [explorer.name_of(point) for point in explorer.points()]
    accepted, bugs = (known(table, case, options.options, names) for table in (ACCEPTED, BUGS))
    unknown = bad.keys() - accepted.keys() - bugs.keys()
    tell("crash explorer", points=len(explorer.points()), bad=len(unknown), known=len(bad) - len(unknown))
    assert not unknown, "\n".join(f"{point}: {line}" for point in sorted(unknown) for line in bad[point])
    assert bugs.keys() <= bad.keys(), f"no longer bad, remove from BUGS: {bugs.keys() - bad.keys()}"
    assert not published_unsynced(rehearsal.changes)
    if bugs:
        pytest.xfail("; ".join(sorted(set(bugs.values()))))


def published_unsynced(calls: Sequence[Call]) -> list[str]:
    """Where new data gets a name before it is on disk: a power failure could then leave an empty file in place of
    the lower one (ovl_copy_up_file)."""
    found, dirty = [], False
    for call in calls:
        if call.name in _DATA:
            dirty = True
        elif call.name in ("fsync", "fdatasync"):
            dirty = False
        elif call.name in ("link", "rename", "renameat2") and dirty:
            found.append(str(call))
    return found
