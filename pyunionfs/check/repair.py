"""What ``--repair`` does: an action for each class of findings that is safe to change.

Nothing that a person wrote is touched, and the merged view stays what it is, down to the times of the
directories. Each action looks once more before it acts.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..overlay import marks
from ..overlay.backing import Backing
from ..overlay.workdir import remove_tree
from . import findings as problems
from .findings import Report
from .walk import say

Action = Callable[[Backing, marks.Namespace], None]


def repair(report: Report, namespace: marks.Namespace) -> None:
    """Repair every finding that says how; one that fails stays as it is, with a note of why."""
    for finding in report.findings:
        if not finding.repair or finding.target is None:
            continue
        try:
            _ACTIONS[finding.problem.name](finding.target, namespace)
            finding.repaired = True
        except OSError as error:
            report.notes.append(f"{finding.shown_path} could not be repaired: {say(error)}")


def _remove_leftover(target: Backing, namespace: marks.Namespace) -> None:
    assert target.parent is not None
    remove_tree(target.parent, target.name)


def _remove_whiteout(target: Backing, namespace: marks.Namespace) -> None:
    st = target.stat()
    is_device = marks.is_whiteout_device(st.st_mode, st.st_rdev)
    if is_device or (
        marks.may_be_xattr_whiteout(st.st_mode, st.st_size) and target.find_xattr(namespace.whiteout) is not None
    ):
        _unlink(target)


def _remove_index(target: Backing, namespace: marks.Namespace) -> None:
    if not stat.S_ISDIR(target.stat().st_mode):
        _unlink(target)


def _mark_impure(target: Backing, namespace: marks.Namespace) -> None:
    target.setxattr(namespace.impure, b"y")


def _unlink(target: Backing) -> None:
    assert target.parent is not None
    with _keeping_times(target.parent):
        dir_fd, name = target.at()
        os.unlink(name, dir_fd=dir_fd)


@contextmanager
def _keeping_times(directory: Backing) -> Iterator[None]:
    """The times of a directory are part of the view."""
    st = directory.stat()
    yield
    directory.utime(st.st_atime_ns, st.st_mtime_ns)


_ACTIONS: dict[str, Action] = {
    problems.LEFTOVER.name: _remove_leftover,
    problems.KEPT_WHITEOUT.name: _remove_leftover,
    problems.STALE_WHITEOUT.name: _remove_whiteout,
    problems.PURE_WHITEOUT.name: _remove_whiteout,
    problems.STALE_INDEX.name: _remove_index,
    problems.ORPHAN_INDEX.name: _remove_index,
    problems.MISSING_IMPURE.name: _mark_impure,
}
