"""The walk through an upper directory: every object and every mark is looked at, nothing is changed.

Along with each upper directory goes the tuple of lower directories that it is merged with, found in the one for
its parent; None where that cannot be told, and then nothing is said of what its whiteouts hide.
"""

import os
import stat
from collections.abc import Iterator, Mapping

from ..overlay import marks
from ..overlay.backing import Backing
from ..overlay.layer import Layer
from . import findings as problems
from .below import Lower, names_of_redirect
from .findings import Report
from .handles import Handles, is_handle_of

Chain = tuple[Backing, ...] | None

_KNOWN = frozenset(
    ("opaque", "redirect", "origin", "impure", "nlink", "upper", "uuid", "metacopy", "protattr", "whiteout")
)
_OF_DIRECTORIES = frozenset(("opaque", "impure", "upper", "uuid"))
_OF_FILES = frozenset(("metacopy", "whiteout"))


class Walk:
    """One walk, and what it remembers of the objects that it has seen."""

    def __init__(self, upper: Layer, lower: Lower, handles: Handles, report: Report) -> None:
        self._upper = upper
        self._lower = lower
        self._namespace = lower.namespace
        self._other = marks.TRUSTED if lower.namespace is marks.USER else marks.USER
        self._handles = handles
        self._report = report
        # With layers on several filesystems the kernel takes "impure" away again (ovl_cache_get_impure).
        self._one_filesystem = all(layer.dev == upper.dev for layer in lower.layers)
        self._merged: dict[tuple[int, int], tuple[bytes, bool]] = {}  # lower directory: who leads there, redirected
        self._seen_own = self._seen_other = False
        self.sure_of_lower = False  # the upper directory says that the top lower layer is the one given

    def run(self) -> None:
        """Look at everything; what cannot be looked at is a finding as well."""
        root = self._upper.root
        chain: Chain = self._lower.roots
        self._look_at_root(root)
        stack: list[tuple[Backing, Chain]] = [(root, chain)]
        while stack:
            directory, chain = stack.pop()
            try:
                below = list(self._directory(directory, chain))
            except OSError as error:
                self._unreadable(directory, error)
                continue
            stack.extend(reversed(below))
        if self._seen_other and not self._seen_own:
            used, here = self._other.prefix, self._namespace.prefix
            message = f"has marks in {used}* only, and is looked at for those in {here}*: is it for userxattr?"
            self._report.add(problems.OTHER_NAMESPACE, root, message)

    def _look_at_root(self, root: Backing) -> None:
        try:
            found = self._marks(root, root.stat())
        except OSError as error:
            self._unreadable(root, error)
            return
        origin = self._handle(root, found)
        self.sure_of_lower = origin is not None and is_handle_of(origin, self._lower.roots[0])
        if origin is not None and not self.sure_of_lower:
            message = "was used with index=on over another top lower layer than the one given"
            self._report.add(problems.OTHER_LOWER, root, message)

    def _directory(self, directory: Backing, chain: Chain) -> Iterator[tuple[Backing, Chain]]:
        """The entries of one directory; yields those that are directories, with what they are merged with."""
        has_origins = False
        for name in sorted(entry.name for entry in directory.scan()):
            backing = directory.child(name)
            self._report.objects += 1
            try:
                st = backing.stat()
                found = self._marks(backing, st)
                if name.startswith(b".wh."):
                    self._report.add(
                        problems.TAR_WHITEOUT, backing, "is a file like any other here, and hides nothing"
                    )
                if stat.S_ISDIR(st.st_mode):
                    below = self._merged_with(backing, chain, found)
                    has_origins |= bool(below) and self._has_origin(backing, st, found)
                    yield backing, below
                elif not self._whiteout(backing, st, found, chain):
                    has_origins |= self._has_origin(backing, st, found)
                    self._metacopy(backing, st, found, chain)
            except OSError as error:
                self._unreadable(backing, error)
        if has_origins and self._one_filesystem and directory.find_xattr(self._namespace.impure) != b"y":
            message = "has entries that were copied up, and is not marked impure: d_ino and st_ino of them differ"
            self._report.add(problems.MISSING_IMPURE, directory, message)

    # -- marks -----------------------------------------------------------------------------------------

    def _marks(self, backing: Backing, st: os.stat_result) -> dict[str, bytes]:
        """The marks of an object, by their names without the prefix; strange ones are reported."""
        found: dict[str, bytes] = {}
        prefix = self._namespace.prefix
        for name in backing.listxattr():
            if name.startswith(self._other.prefix):
                self._seen_other = True
                self._report.add(problems.FOREIGN_MARK, backing, f"has {name}, and the marks used are {prefix}*")
            elif self._namespace.is_private(name):
                self._seen_own = True
                value = backing.find_xattr(name)
                if value is not None:
                    found[name.removeprefix(prefix)] = value
        for name, value in found.items():
            self._judge_mark(backing, st, name, value)
        return found

    def _judge_mark(self, backing: Backing, st: os.stat_result, name: str, value: bytes) -> None:
        is_dir, is_file = stat.S_ISDIR(st.st_mode), stat.S_ISREG(st.st_mode)
        if name not in _KNOWN:
            self._report.add(problems.UNKNOWN_MARK, backing, f"has a mark {name!r}, which is not known")
        elif (name in _OF_DIRECTORIES and not is_dir) or (name in _OF_FILES and not is_file):
            kind = "a directory" if name in _OF_DIRECTORIES else "a regular file"
            self._report.add(problems.MEANINGLESS_MARK, backing, f"has the mark {name} and is not {kind}")
        elif name == "opaque" and value not in (marks.OPAQUE_YES, marks.OPAQUE_XATTR_WHITEOUTS):
            self._report.add(
                problems.MEANINGLESS_MARK, backing, f"is marked opaque={_show(value)}, which says nothing"
            )

    def _handle(self, backing: Backing, found: Mapping[str, bytes]) -> marks.Origin | None:
        """The origin of an object, None if it has none or one of unknown meaning (which is empty)."""
        value = found.get("origin")
        if not value:
            return None
        try:
            return marks.Origin.parse(value)
        except ValueError as error:
            self._report.add(problems.MALFORMED_ORIGIN, backing, f"has an origin that cannot be read: {error}")
            return None

    def _has_origin(self, backing: Backing, st: os.stat_result, found: Mapping[str, bytes]) -> bool:
        """Whether st_ino is that of a lower object (OVL_TYPE_ORIGIN; hard links only keep theirs by the index)."""
        handle = self._handle(backing, found)
        if handle is None or not self._handles.knows(handle):
            return False
        origin = self._handles.find(handle)
        if origin is None or stat.S_IFMT(origin.st_mode) != stat.S_IFMT(st.st_mode):
            what = "is gone" if origin is None else "is now of another type"
            self._report.add(problems.STALE_ORIGIN, backing, f"the lower object that it was copied from {what}")
            return False
        return stat.S_ISDIR(st.st_mode) or origin.st_nlink == 1

    # -- directories -----------------------------------------------------------------------------------

    def _merged_with(self, backing: Backing, chain: Chain, found: Mapping[str, bytes]) -> Chain:
        """The lower directories below an upper one."""
        redirect = found.get("redirect")
        if found.get("opaque") == marks.OPAQUE_YES:
            if chain is not None and not self._lower.directories(chain, [backing.name]):
                self._report.add(problems.NEEDLESS_OPAQUE, backing, "no lower directory is there to be hidden")
            return ()
        if redirect is None:
            return None if chain is None else self._remember(backing, self._below(chain, [backing.name]), False)
        names = self._redirect(backing, redirect)
        if names is None or (chain is None and not redirect.startswith(b"/")):
            return None
        below = self._below(self._lower.roots if redirect.startswith(b"/") else chain or (), names)
        if not below:
            message = f"is redirected to {_show(redirect)}, and no lower layer has a directory there"
            self._report.add(problems.DANGLING_REDIRECT, backing, message)
            return None
        return self._remember(backing, below, True)

    def _below(self, where: tuple[Backing, ...], names: list[bytes]) -> tuple[Backing, ...]:
        return self._lower.directories(where, names) if where else ()

    def _redirect(self, backing: Backing, value: bytes) -> list[bytes] | None:
        try:
            return names_of_redirect(value)
        except ValueError as error:
            message = f"the redirect {_show(value)} cannot be followed: {error}"
            self._report.add(problems.MALFORMED_REDIRECT, backing, message)
            return None

    def _remember(self, backing: Backing, below: tuple[Backing, ...], redirected: bool) -> Chain:
        """Report two upper directories over one lower directory (ovl_lookup_index: "multiply redirected")."""
        if not below:
            return below
        st = below[0].stat()
        path = backing.path()
        known, was_redirected = self._merged.setdefault((st.st_dev, st.st_ino), (path, redirected))
        if known != path and (redirected or was_redirected):
            where = f"{os.fsdecode(below[0].path())} of {os.fsdecode(below[0].layer.path)}"
            message = f"shows the lower directory {where}, which {os.fsdecode(known)} shows too"
            self._report.add(problems.DOUBLE_REDIRECT, backing, message)
        return below

    # -- everything else -------------------------------------------------------------------------------

    def _whiteout(self, backing: Backing, st: os.stat_result, found: Mapping[str, bytes], chain: Chain) -> bool:
        """Whether an object is a whiteout, and if so, what it hides."""
        if not marks.is_whiteout_device(st.st_mode, st.st_rdev):
            if "whiteout" not in found or not marks.may_be_xattr_whiteout(st.st_mode, st.st_size):
                return False
            if not self._may_have_xattr_whiteouts(backing, chain):
                message = (
                    "is marked as a whiteout in a directory that is not marked opaque=x: listed, and not found"
                )
                self._report.add(problems.UNMARKED_WHITEOUT, backing, message)
                return True
        if chain == ():
            self._report.add(problems.PURE_WHITEOUT, backing, "its directory is merged with no lower one")
        elif chain is not None and not self._lower.shows(chain, backing.name):
            self._report.add(problems.STALE_WHITEOUT, backing, "no lower layer shows anything of this name")
        return True

    def _may_have_xattr_whiteouts(self, backing: Backing, chain: Chain) -> bool:
        directories = [backing.parent, *(chain or ())]
        values = (item.find_xattr(self._namespace.opaque) for item in directories if item is not None)
        return marks.OPAQUE_XATTR_WHITEOUTS in values

    def _metacopy(self, backing: Backing, st: os.stat_result, found: Mapping[str, bytes], chain: Chain) -> None:
        if "metacopy" not in found or not stat.S_ISREG(st.st_mode):
            return
        try:
            marks.Metacopy.parse(found["metacopy"])
        except ValueError as error:
            self._report.add(
                problems.MALFORMED_METACOPY, backing, f"has a metacopy mark that cannot be read: {error}"
            )
            return
        redirect = found.get("redirect")
        names: list[bytes] | None = [backing.name]
        where: Chain = chain
        if redirect is not None:
            names = self._redirect(backing, redirect)
            where = self._lower.roots if redirect.startswith(b"/") else chain
        if names is None or where is None:
            return
        data = self._lower.data_of(where, names)
        if data is None:
            at = f"{_show(redirect)} (its redirect)" if redirect is not None else "its own path"
            self._report.add(problems.MISSING_DATA, backing, f"has no data, and no lower layer has it at {at}")
        elif data.st_size != st.st_size:
            message = f"says that it has {st.st_size} bytes, and its data below has {data.st_size}"
            self._report.add(problems.METACOPY_SIZE, backing, message)

    def _unreadable(self, backing: Backing, error: OSError) -> None:
        self._report.add(problems.UNREADABLE, backing, say(error))


def say(error: OSError) -> str:
    """What went wrong, and with what if it is not the object itself."""
    words = error.strerror or str(error)
    return f"{words} ({os.fsdecode(error.filename)})" if isinstance(error.filename, bytes) else words


def _show(value: bytes) -> str:
    return repr(os.fsdecode(value))
