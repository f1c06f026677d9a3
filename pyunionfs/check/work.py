"""The work directory: what crashes left in it, what refuses the next mount, and the index.

Kernel: ovl_workdir_cleanup() and ovl_indexdir_cleanup() in fs/overlayfs/readdir.c, ovl_verify_index() in namei.c,
ovl_get_indexdir() in super.c. What the kernel would remove at the next mount, a repair removes.
"""

import os
import stat
from collections.abc import Callable, Sequence

from ..overlay import marks
from ..overlay.backing import Backing
from ..overlay.layer import Layer
from . import findings as problems
from .below import look
from .findings import Problem, Report
from .handles import Handles, is_handle_of
from .walk import say

Entry = tuple[Backing, os.stat_result]

_INCOMPATIBLE = b"incompat"


class WorkCheck:
    """The check of one work directory.

    ``sure`` says that the lower layers are known to be those that the index was made over: only then is an index
    entry removed that is the last name of an object.
    """

    def __init__(
        self,
        work: Layer,
        upper: Layer,
        lower: Handles,
        uppers: Handles,
        namespace: marks.Namespace,
        report: Report,
        *,
        sure: bool,
    ) -> None:
        self._work = work
        self._upper = upper
        self._lower = lower
        self._uppers = uppers
        self._origin_mark = namespace.origin
        self._upper_mark = namespace.upper
        self._nlink_mark = namespace.nlink
        self._report = report
        self._sure = sure
        self._is_exported = False  # over NFS, by handles that the index keeps

    def run(self) -> None:
        """Look at ``work`` and at ``index``; neither has to be there."""
        work, index = map(self._work.root.child, (b"work", b"index"))
        if look(work) is not None:
            self._each(self._entries(work), self._look_at_temporary)
        st = look(index)
        if st is not None:
            self._each([(index, st)], self._look_at_index)

    def _entries(self, directory: Backing) -> list[Entry]:
        """The entries of a directory, none if it is no directory or cannot be read."""
        found: list[Entry] = []
        try:
            if stat.S_ISDIR(directory.stat().st_mode):
                for name in sorted(entry.name for entry in directory.scan()):
                    found.append((directory.child(name), directory.child(name).stat()))
        except PermissionError:
            self._add(problems.CLOSED_WORK, directory, "has no permissions; root can look into it")
        except OSError as error:
            self._add(problems.UNREADABLE, directory, say(error))
        return found

    def _each(self, entries: Sequence[Entry], judge: Callable[[Backing, os.stat_result], None]) -> None:
        for entry, st in entries:
            try:
                judge(entry, st)
            except OSError as error:
                self._add(problems.UNREADABLE, entry, say(error))

    def _add(self, problem: Problem, backing: Backing, message: str, *, repair: bool = True) -> None:
        self._report.add(problem, backing, message, in_work=True, repair=repair)

    # -- work ------------------------------------------------------------------------------------------

    def _look_at_temporary(self, entry: Backing, st: os.stat_result) -> None:
        if entry.name == _INCOMPATIBLE:
            self._each(self._entries(entry), self._look_at_feature)
        elif marks.is_whiteout_device(st.st_mode, st.st_rdev):
            self._add(problems.KEPT_WHITEOUT, entry, "a whiteout to link others from; made anew when needed")
        else:
            what = "directory" if stat.S_ISDIR(st.st_mode) else f"file of {st.st_size} bytes"
            self._add(problems.LEFTOVER, entry, f"a {what} that was never moved to its place")

    def _look_at_feature(self, entry: Backing, st: os.stat_result) -> None:
        if entry.name == b"volatile":
            message = "the last mount was volatile: if no data is missing, remove this directory"
            self._add(problems.VOLATILE, entry, message)
        else:
            message = f"refuses each mount that does not know {os.fsdecode(entry.name)}"
            self._add(problems.INCOMPATIBLE, entry, message)

    # -- index -----------------------------------------------------------------------------------------

    def _look_at_index(self, index: Backing, _: os.stat_result) -> None:
        value = index.find_xattr(self._upper_mark)
        try:
            if value is not None and not is_handle_of(marks.Origin.parse(value), self._upper.root):
                message = "names another upper directory than the one given (was it copied from elsewhere?)"
                self._add(problems.OTHER_UPPER, index, message)
        except ValueError as error:
            self._add(problems.OTHER_UPPER, index, f"does not say which upper directory it belongs to: {error}")
        entries = self._entries(index)
        # Directories are in the index with nfs_export alone.
        self._is_exported = any(stat.S_ISDIR(st.st_mode) and entry.name[:1] != b"#" for entry, st in entries)
        self._each(entries, self._look_at_entry)

    def _look_at_entry(self, entry: Backing, st: os.stat_result) -> None:
        """ovl_verify_index."""
        if entry.name.startswith(b"#"):
            self._look_at_temporary(entry, st)
            return
        try:
            handle = marks.Origin.of_index_name(entry.name)
            if marks.is_whiteout_device(st.st_mode, st.st_rdev):
                return  # with nfs_export: the object is gone, and its handle stays so
            if stat.S_ISDIR(st.st_mode):
                self._directory_entry(entry, handle)
            else:
                self._file_entry(entry, handle, st)
        except ValueError as error:
            self._add(problems.MALFORMED_INDEX, entry, str(error))

    def _directory_entry(self, entry: Backing, handle: marks.Origin) -> None:
        """Made with nfs_export: its mark ``upper`` leads to the upper directory (ovl_index_upper)."""
        value = entry.find_xattr(self._upper_mark)
        if value is None:
            self._add(problems.ORPHAN_INDEX, entry, "says of no upper directory that it is its own", repair=False)
            return
        upper = marks.Origin.parse(value)
        st = self._uppers.find(upper) if self._uppers.knows(upper) else None
        if self._uppers.knows(upper) and (st is None or not stat.S_ISDIR(st.st_mode)):
            self._add(problems.ORPHAN_INDEX, entry, "its upper directory is gone", repair=False)
        elif self._lower.knows(handle) and self._lower.find(handle) is None:
            self._add(problems.STALE_INDEX, entry, "its lower directory is gone", repair=False)

    def _file_entry(self, entry: Backing, handle: marks.Origin, st: os.stat_result) -> None:
        value = entry.find_xattr(self._origin_mark)
        if value is None:
            raise ValueError("it has no origin")
        if marks.Origin.parse(value) != handle:
            # Removed only while the object has another name: no data goes with it.
            self._add(
                problems.STALE_INDEX, entry, "its origin is not what it is named after", repair=st.st_nlink > 1
            )
            return
        if not self._lower.knows(handle):
            return
        lower = self._lower.find(handle)
        if lower is None or stat.S_IFMT(lower.st_mode) != stat.S_IFMT(st.st_mode):
            what = "is gone" if lower is None else "is now of another type"
            self._add(problems.STALE_INDEX, entry, f"its lower object {what}", repair=self._sure or st.st_nlink > 1)
            return
        if st.st_nlink > 1:
            return
        # Its only name is here. It may still be what the union shows for a lower name that was not copied up.
        value = entry.find_xattr(self._nlink_mark)
        if lower.st_nlink == 1 or marks.parse_nlink(value, upper=st.st_nlink, lower=lower.st_nlink) <= 0:
            # With nfs_export a mount puts a whiteout there, so that nobody finds the lower object by its handle.
            repair = self._sure and not self._is_exported
            self._add(problems.ORPHAN_INDEX, entry, "neither an upper nor a lower name leads to it", repair=repair)
