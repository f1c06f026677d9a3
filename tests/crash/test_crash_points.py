"""A daemon that dies at any moment leaves the old view or the new one: all operations, all points, no chance.

Each case dies before each of its changes and after the last one (``explorer.py`` says how, and what is right).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cases import Case
from explorer import Explorer
from option_sets import OptionSet
from rehearsal import Rehearsal
from tap import Call

_BROKEN_LINK = "a copy-up parts a hard link from its other names (overlayfs.rst, Non-standard behavior)"
_SUID_FIRST = "the setuid bits go before the data comes (file_remove_privs)"

# States that are neither old nor new, and are the kernel's as well: (case, point) -> why, and the mount option that
# does away with them.
AS_IN_THE_KERNEL = {
    ("link one of two lower hard links", "utime ., #1"): (_BROKEN_LINK, "index"),
    ("link one of two lower hard links", "link twin new, #1"): (_BROKEN_LINK, "index"),
    ("write to a setuid file", "pwrite more, #1"): (_SUID_FIRST, ""),
}
# Bad states that are still to be mended. When one is, the test says so.
BUGS = {
    ("truncate a setuid file", "fchmod, #1"): "shows the shorter file with its setuid bits",
}


_DATA = {"copy_file_range", "ficlone", "ftruncate", "pwrite", "pwritev"}


@pytest.mark.usefixtures("needed")
def test_a_crash_leaves_the_old_view_or_the_new_one(
    case: Case, options: OptionSet, tmp_path: Path, can: Callable[[str], bool], tell: Callable[..., None]
) -> None:
    rehearsal = Rehearsal.of(case, options.options, tmp_path)
    kernel = "kernel_overlay_userxattr" if "userxattr" in options.options else "kernel_overlay"
    explorer = Explorer(rehearsal, tmp_path, compare_with_kernel=can(kernel))
    bad = {explorer.name_of(point): wrong for point in explorer.points() if (wrong := explorer.judge(point))}
    accepted = {
        point
        for (name, point), (_, cure) in AS_IN_THE_KERNEL.items()
        if name == case.name and cure not in options.options
    }
    bugs = {point: why for (name, point), why in BUGS.items() if name == case.name}
    unknown = bad.keys() - accepted - bugs.keys()
    tell("crash explorer", points=len(explorer.points()), bad=len(unknown), known=len(bad) - len(unknown))
    assert not unknown, "\n".join(f"{point}: {line}" for point in sorted(unknown) for line in bad[point])
    assert bugs.keys() <= bad.keys(), f"no longer bad, remove from BUGS: {bugs.keys() - bad.keys()}"
    assert not published_unsynced(rehearsal.changes)
    if bugs:
        pytest.xfail("; ".join(f"{point}: {why}" for point, why in sorted(bugs.items())))


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
