"""A check of an upper directory, as fsck is one of a disk: what is stale, broken, lost or out of place in it.

:func:`check` opens the layers and hands them on: ``walk.py`` looks at the upper directory, ``work.py`` at the work
directory, ``below.py`` knows what the lower layers have, ``findings.py`` lists what can be found, ``repair.py``
changes what is safe to change. An upper directory is untrusted input here as everywhere: all I/O is that of
``overlay/backing.py``, and what cannot be read is a finding, never an end of the check.
"""

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack

from ..overlay import marks
from ..overlay.fs import Overlay
from ..overlay.layer import DirFds, Layer
from ..overlay.union import Path
from ..overlay.workdir import lock_directory
from . import findings as problems
from .below import Lower
from .findings import PROBLEMS, Finding, Problem, Report, Severity
from .handles import Handles
from .repair import repair as _repair
from .use import in_use, kernel_mount
from .walk import Walk
from .work import WorkCheck

__all__ = ["PROBLEMS", "Finding", "Problem", "Report", "Severity", "check"]

_OPEN_DIRECTORIES = 512
_ABOUT_LOWER = (problems.STALE_WHITEOUT, problems.PURE_WHITEOUT, problems.STALE_INDEX, problems.ORPHAN_INDEX)


def check(
    upper: Path,
    lower: Sequence[Path],
    work: Path | None = None,
    *,
    data: Sequence[Path] = (),
    userxattr: bool = False,
    repair: bool = False,
) -> Report:
    """Check an upper directory over its lower layers, given top to bottom, and repair what is safe.

    ``lower`` must be all layers of the mount, or whiteouts seem to hide nothing; ``data`` are the data-only ones
    below them. Without ``work`` the work directory beside the upper one is taken that a mount makes by default, if
    it is there. Nothing is changed without ``repair``.

    Raises ``OSError`` with a sentence where it cannot check: ENOENT, ENOTDIR, ELOOP or EINVAL for the directories,
    and with ``repair`` EBUSY for an upper directory that is mounted.
    """
    paths = [os.fsencode(path) for path in lower]
    namespace = _namespace(paths, userxattr)
    report = Report()
    with ExitStack() as stack:
        fds = _Fds(_OPEN_DIRECTORIES)
        stack.callback(fds.close)

        def enter(path: bytes, what: str, *, writable: bool = False) -> Layer:
            layer = _open(path, what, fds, writable=writable)
            stack.callback(layer.close)
            return layer

        upper_layer = enter(os.fsencode(upper), "upper directory", writable=repair)
        work_path = os.fsencode(work) if work is not None else _default_work(upper_layer.path)
        work_layer = enter(work_path, "work directory", writable=repair) if work_path is not None else None
        layers = [enter(path, "lower layer") for path in paths]
        data_layers = [enter(os.fsencode(path), "data-only layer") for path in data]
        _refuse_overlap(upper_layer, work_layer, [*layers, *data_layers])
        is_mounted = _guard(upper_layer, work_layer, report, stack, lock=repair)
        handles = stack.enter_context(Handles(layers))
        if not handles.able:
            report.notes.append("file handles cannot be opened here: origins and the index were not followed")
        walk = Walk(upper_layer, Lower(layers, data_layers, namespace), handles, report)
        walk.run()
        if work_layer is not None and not is_mounted:
            uppers = stack.enter_context(Handles([upper_layer]))
            sure = walk.sure_of_lower
            WorkCheck(work_layer, upper_layer, handles, uppers, namespace, report, sure=sure).run()
        elif work_layer is None:
            report.notes.append("there was no work directory to look at: name it by --work")
        _keep_what_is_doubtful(report)
        if repair:
            _repair(report, namespace)
    return report


class _Fds(DirFds):
    """Descriptors of directories that can be closed all at once."""

    def close(self) -> None:
        for directory in list(self._open):
            directory.drop()


def _namespace(lower: Sequence[bytes], userxattr: bool) -> marks.Namespace:
    """The marks that a mount by this user would use; also raises whatever is wrong with the lower layers."""
    with Overlay(lower, options={"userxattr": userxattr}) as union:
        return marks.USER if union.uses_user_xattrs else marks.TRUSTED


def _open(path: bytes, what: str, fds: DirFds, *, writable: bool) -> Layer:
    try:
        if not os.path.isdir(path) and os.path.exists(path):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return Layer.open(path, fds, writable=writable)
    except OSError as error:
        raise OSError(error.errno, f"{what} {os.fsdecode(path)}: {error.strerror}") from None


def _default_work(upper: bytes) -> bytes | None:
    """The work directory that a mount without one makes (:func:`pyunionfs.overlay.super.default_work`)."""
    head, tail = os.path.split(os.path.realpath(upper))
    work = os.path.join(head, b"." + tail + b".work")
    return work if os.path.isdir(work) and not os.path.islink(work) else None


def _refuse_overlap(upper: Layer, work: Layer | None, lower: Sequence[Layer]) -> None:
    own = {(st.st_dev, st.st_ino) for st in (os.fstat(item.root.fd) for item in (upper, work) if item is not None)}
    for layer in lower:
        st = os.fstat(layer.root.fd)
        if (st.st_dev, st.st_ino) in own:
            path = os.fsdecode(layer.path)
            raise OSError(errno.ELOOP, f"{path} is given as a lower layer and as the upper or work directory")


def _guard(upper: Layer, work: Layer | None, report: Report, stack: ExitStack, *, lock: bool) -> bool:
    """Have nobody mount it while it is repaired; returns whether it is mounted while it is only looked at."""
    path = os.fsdecode(upper.path)
    if not lock:
        user = in_use(upper)
        if user:
            report.notes.append(
                f"{path} is in use by {user}: what is just being changed may look damaged, and the work directory "
                "was not looked at"
            )
        return bool(user)
    for layer, what in ((upper, "upper"), (work, "work")):
        if layer is not None:
            stack.callback(os.close, lock_directory(layer.path, layer.root.fd, what))
    user = kernel_mount(upper)
    if user:
        raise OSError(errno.EBUSY, f"upper directory {path} is in use by {user}: unmount it to have it repaired")
    return False


def _keep_what_is_doubtful(report: Report) -> None:
    """Where the lower layers are not those that the upper directory was made over, nothing is safe that depends on
    what they have."""
    if any(item.problem is problems.OTHER_LOWER for item in report.findings):
        for item in report.findings:
            if item.problem in _ABOUT_LOWER:
                item.repair = ""
