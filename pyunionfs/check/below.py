"""What the layers below an upper directory have under a name, redirects followed as the kernel follows them.

Kernel: ovl_lookup(), ovl_lookup_layer(), ovl_lookup_single() in fs/overlayfs/namei.c, with redirect_dir and
metacopy on: a check wants to know where the marks lead, whatever the options of the next mount. What the
findings mean is decided in ``overlay/merge.py``.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..overlay import marks, merge
from ..overlay.backing import Backing
from ..overlay.layer import Layer
from ..overlay.merge import Kind

_NOT_THERE = (errno.ENOENT, errno.ENAMETOOLONG)


@dataclass(frozen=True, slots=True)
class Found:
    """What one layer has; ``metacopy`` says that its data is further below."""

    kind: Kind
    backing: Backing
    st: os.stat_result | None = None
    metacopy: bool = False

    @property
    def is_regular(self) -> bool:
        return self.kind is Kind.OTHER and self.st is not None and stat.S_ISREG(self.st.st_mode)


class Lower:
    """The lower layers of a union, top to bottom, and the data-only ones below them."""

    def __init__(self, layers: Sequence[Layer], data: Sequence[Layer], namespace: marks.Namespace) -> None:
        self.layers = layers
        self.data = data
        self.namespace = namespace
        self.roots = tuple(layer.root for layer in layers)

    def directories(self, where: Sequence[Backing], names: Sequence[bytes]) -> tuple[Backing, ...]:
        """The directories that merge with an upper one of that path: from the roots if it has several names."""
        found: list[Found] = []

        def kinds() -> Iterator[Kind]:
            for item in Search(self, where, names).findings():
                found.append(item)
                yield item.kind

        providers = [found[index] for index in merge.resolve(kinds()).providers]
        return tuple(item.backing for item in providers if item.kind in (Kind.DIRECTORY, Kind.OPAQUE))

    def shows(self, where: Sequence[Backing], name: bytes) -> bool:
        """Whether a name would be seen if the upper directory had nothing under it (ovl_lower_positive)."""
        for item in Search(self, where, [name]).findings():
            if item.kind is not Kind.ABSENT:
                return item.kind is not Kind.WHITEOUT
        return False

    def data_of(self, where: Sequence[Backing], names: Sequence[bytes]) -> os.stat_result | None:
        """The file that has the data of an upper metacopy (ovl_lookup, ovl_lookup_data_layers)."""
        search = Search(self, where, names)
        met_metacopy = False
        for item in search.findings():
            if item.kind is Kind.ABSENT:
                continue
            if not item.is_regular:
                return None
            if not item.metacopy:
                return item.st
            met_metacopy = True
        if met_metacopy and search.absolute:
            return self._in_data_layers(search.names)
        return None

    def _in_data_layers(self, names: Sequence[bytes]) -> os.stat_result | None:
        for layer in self.data:
            backing = layer.root
            for name in names[:-1]:
                backing = backing.child(name)
                st = look(backing)
                if st is None or not stat.S_ISDIR(st.st_mode):
                    break
            else:
                st = look(backing.child(names[-1]))
                if st is not None and stat.S_ISREG(st.st_mode):
                    return st
        return None


class Search:
    """One search through the layers (struct ovl_lookup_data)."""

    def __init__(self, lower: Lower, where: Sequence[Backing], names: Sequence[bytes]) -> None:
        self._lower = lower
        self._namespace = lower.namespace
        self._where = where
        self.names = list(names)  # what the layers below are searched for
        self.absolute = False  # whether the mark that was read last was an absolute redirect
        self._restart = False

    def findings(self) -> Iterator[Found]:
        """What each layer has, looked for only when it is asked for.

        Raises OSError of a layer, EINVAL for a malformed redirect in it.
        """
        queue = deque(self._where)
        while queue:
            directory = queue.popleft()
            yield self._look_in(directory)
            if self._restart:  # an absolute redirect: on with the roots of the layers below
                self._restart = False
                below = self._lower.layers[self._lower.layers.index(directory.layer) + 1 :]
                queue = deque(layer.root for layer in below)

    def _look_in(self, directory: Backing) -> Found:
        """Walk the path in one layer; a redirect on the way changes what the next layers are searched for."""
        names, done = list(self.names), list[bytes]()
        ended = False  # by an opaque directory on the way
        for position, name in enumerate(names):
            is_final = position == len(names) - 1
            backing = directory.child(name)
            st = look(backing)
            if st is None:
                return Found(Kind.WHITEOUT if ended else Kind.ABSENT, backing)
            if self._is_whiteout(directory, backing, st) or not (is_final or stat.S_ISDIR(st.st_mode)):
                return Found(Kind.WHITEOUT, backing, st)
            rest = names[position + 1 :]
            if not stat.S_ISDIR(st.st_mode):
                return self._file(backing, st, done, rest)
            if backing.find_xattr(self._namespace.opaque) == marks.OPAQUE_YES:
                ended = True
                done = [*done, name]
            else:
                done = self._follow(backing, done, rest)
                ended = ended and not self.absolute
            directory = backing
        return Found(Kind.OPAQUE if ended else Kind.DIRECTORY, directory, st)

    def _file(self, backing: Backing, st: os.stat_result, done: list[bytes], rest: list[bytes]) -> Found:
        is_metacopy = stat.S_ISREG(st.st_mode) and backing.find_xattr(self._namespace.metacopy) is not None
        if is_metacopy:
            self._follow(backing, done, rest)
        return Found(Kind.OTHER, backing, st, is_metacopy)

    def _follow(self, backing: Backing, done: list[bytes], rest: list[bytes]) -> list[bytes]:
        """Note the redirect of an object (ovl_check_redirect); returns the path up to here for those below."""
        self.absolute = False
        is_bottom = backing.layer is self._lower.layers[-1] and not self._lower.data  # struct ovl_lookup_data.last
        value = None if is_bottom else backing.find_xattr(self._namespace.redirect)
        if value is None:
            return [*done, backing.name]
        try:
            names = names_of_redirect(value)
        except ValueError as error:
            raise OSError(errno.EINVAL, f"a malformed redirect below ({error})", backing.path()) from None
        self.absolute = value.startswith(b"/")
        self._restart |= self.absolute
        done = names if self.absolute else [*done, *names]
        self.names = [*done, *rest]
        return done

    def _is_whiteout(self, directory: Backing, backing: Backing, st: os.stat_result) -> bool:
        """Xattr whiteouts count in a directory that is marked for them alone: elsewhere opinions differ, and the
        check takes them for objects, on the safe side."""
        if marks.is_whiteout_device(st.st_mode, st.st_rdev):
            return True
        return (
            marks.may_be_xattr_whiteout(st.st_mode, st.st_size)
            and backing.find_xattr(self._namespace.whiteout) is not None
            and directory.find_xattr(self._namespace.opaque) == marks.OPAQUE_XATTR_WHITEOUTS
        )


def names_of_redirect(value: bytes) -> list[bytes]:
    """As :func:`marks.redirect_names`; ValueError also for names that no look-up takes (lookup_noperm_common)."""
    names = marks.redirect_names(value)
    if any(name in (b".", b"..") or b"\0" in name for name in names):
        raise ValueError("a name that no object can have")
    return names


def look(backing: Backing) -> os.stat_result | None:
    """Attributes of an object, None if it is not there."""
    try:
        return backing.stat()
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return None
