"""Fault injection: make one system call of an operation fail, and judge what the operation makes of it."""

import errno
import os
from dataclasses import dataclass, replace
from pathlib import Path

from mounts import Layers
from overlay_view import view
from rehearsal import Rehearsal, State, is_restoring, name_of, open_descriptors, same_view, told
from tap import Call, tap
from trees import Snapshot, diff
from unions import Files, fresh_layers, working_union

from pyunionfs import Overlay

_FULL = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
_NAMES = (*_FULL, errno.EROFS, errno.EINTR)
_REMOVAL = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EINTR)
_ATTRIBUTES = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_DESCRIPTOR = (errno.EMFILE, errno.EIO)
_CREATING = (errno.ENOSPC, errno.EMFILE, errno.EIO, errno.EDQUOT, errno.EROFS)

# What each call may fail with on some filesystem, the likeliest first. No EINTR where Python itself tries again
# (PEP 475); local filesystems have none anyway, but NFS and FUSE may have it for names.
_ERRORS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("link", "mkdir", "mknod", "rename", "renameat2", "setxattr", "symlink"), _NAMES),
    **dict.fromkeys(
        ("fallocate", "ficlone", "copy_file_range", "fdatasync", "fsync", "ftruncate", "pwrite", "pwritev"), _FULL
    ),
    **dict.fromkeys(("removexattr", "rmdir", "unlink"), _REMOVAL),
    **dict.fromkeys(("chmod", "chown", "fchmod", "utime", "utimensat"), _ATTRIBUTES),
    **dict.fromkeys(("listdir", "open_by_handle_at", "open_tree", "openat2", "scandir"), _DESCRIPTOR),
}
# When the new view is there, a failure to clear away the old one, or to restore a directory's time, is nobody's
# business (ovl_cleanup only logs it).
_CLEANING_UP = ("chmod", "listdir", "open", "rmdir", "scandir", "unlink", "utime")


def errors_of(call: Call) -> tuple[int, ...]:
    """The errno values that a call may fail with."""
    if call.name == "open":
        return _CREATING if call.changes else _DESCRIPTOR
    return _ERRORS[call.name]


@dataclass(frozen=True)
class Faults:
    """Failures in one operation, below the directory ``root``."""

    rehearsal: Rehearsal
    root: Path

    def points(self) -> list[tuple[int, tuple[int, ...]]]:
        """Each change and each opening, with the errors that it may meet.

        Not the openings of an ordinary user's daemon: it opens whatever it looks at, also to answer in the end.
        """
        root = os.geteuid() == 0
        return [(n, errors_of(call)) for n, call in enumerate(self.rehearsal.calls) if call.changes or root]

    def name_of(self, point: int) -> str:
        return name_of(self.rehearsal.calls, point)

    def judge(self, point: int, number: int) -> list[str]:
        """Have the call at a point fail; returns what is wrong then, nothing if all is well."""
        options, case = self.rehearsal.options, self.rehearsal.case
        descriptors = open_descriptors()
        with fresh_layers(self.root / f"point{point}-{number}") as layers:
            try:
                with working_union(layers, options, case.prepare) as files:
                    wrong = self._judge_failure(files, layers, point, number)
                    seen = view(files.overlay)
                wrong += told("after another try, not the new view", self._differs_from_new(seen))
                wrong += told("mounted again, another view", diff(seen, State.of(layers, options).view))
            except (OSError, AssertionError) as error:
                return [f"afterwards: {error!r}"]
        leaked = open_descriptors() - descriptors
        return [*wrong, f"{leaked} descriptors are left open"] if leaked > self.rehearsal.leaks else wrong

    def _judge_failure(self, files: Files, layers: Layers, point: int, number: int) -> list[str]:
        """Run the operation into the fault, look at what is left, and have it done all the same."""
        rehearsal = self.rehearsal
        met = self._run_with_fault(files, point, number)
        seen = view(files.overlay)
        wrong = rehearsal.judge_view(seen, restoring=is_restoring(rehearsal.calls, point))
        with Overlay([layers.upper, *layers.lower], options=rehearsal.options) as on_disk:
            wrong += told("on disk", diff(_plain(seen), _plain(view(on_disk)), names=("in memory", "on disk")))
        if met is None and rehearsal.is_done(seen) and rehearsal.calls[point].name in _CLEANING_UP:
            return wrong  # what could not be removed stays in the work directory until the next mount
        temporaries = [name for name in os.listdir(layers.work / "work") if name != "#wh"]
        if temporaries:
            wrong.append(f"left in the work directory: {temporaries}")
        if met is None:
            return [*wrong, "the error is kept from the caller"]
        if met != number:
            wrong.append(f"the caller gets {errno.errorcode[met]}")
        if rehearsal.old.view != rehearsal.new.view and rehearsal.is_done(seen):
            return [*wrong, "it has failed, and yet it is done"]
        rehearsal.case.run(files)
        return wrong

    def _run_with_fault(self, files: Files, point: int, number: int) -> int | None:
        """The errno that the caller gets, None if the operation succeeds all the same."""
        made: list[Call] = []

        def announce(call: Call) -> None:
            made.append(call)
            if len(made) == point + 1:
                assert call == self.rehearsal.calls[point], f"{call} in place of {self.rehearsal.calls[point]}"
                raise OSError(number, os.strerror(number))

        try:
            with tap(announce):
                self.rehearsal.case.run(files)
        except OSError as error:
            return error.errno
        return None

    def _differs_from_new(self, seen: Snapshot) -> str:
        """A time may be that of the first try."""
        new = self.rehearsal.new.view
        return "" if same_view(seen, new) else diff(new, seen, names=("new", "seen"))


def _plain(view: Snapshot) -> Snapshot:
    """A view without its hard links: those of the index are known to a union with an upper layer alone."""
    return {path: replace(entry, links=()) for path, entry in view.items()}
