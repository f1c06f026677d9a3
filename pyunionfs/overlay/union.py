"""A union, opened: what it consists of and what it says of itself. What is done in it is :mod:`.fs`."""

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from ..events import Listener
from ..vfs import Held, Ino, Journal
from . import held, marks, params
from .inode import Inode
from .search import is_opaque_to_others
from .super import Superblock, is_privileged

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class Union:
    """What every :class:`.fs.Overlay` is, whatever it is asked; how it is opened is said there."""

    def __init__(
        self,
        lower: Sequence[Path],
        upper: Path | None = None,
        work: Path | None = None,
        *,
        data: Sequence[Path] = (),
        options: Mapping[str, str | bool | None] | None = None,
        adopt: Sequence[int] | None = None,
    ) -> None:
        privileged = is_privileged()
        self.sb = Superblock(
            [os.fsencode(path) for path in lower],
            None if upper is None else os.fsencode(upper),
            None if work is None else os.fsencode(work),
            params.parse(options or {}, upper=upper is not None, privileged=privileged),
            data=[os.fsencode(path) for path in data],
            namespace=marks.TRUSTED if privileged else marks.USER,
            adopt=adopt,
        )
        self._add_root()

    def _add_root(self) -> None:
        sb = self.sb
        root = Inode(None, b"", stat.S_IFDIR)
        root.upper = sb.upper.root if sb.upper is not None else None
        root.lower = tuple(layer.root for layer in sb.lower[: self._visible_roots()])
        root.impure = root.upper is not None and root.upper.find_xattr(sb.marks.impure) == b"y"
        root.xattr_whiteouts = any(layer.root.find_xattr(sb.marks.opaque) == b"x" for layer in sb.layers)
        one_filesystem = len({layer.fsid for layer in sb.layers}) == 1
        root.const_ino = root.lower[0].stat().st_ino if root.lower and one_filesystem else 0
        sb.table.add_root(root)

    def _visible_roots(self) -> int:
        """How many lower layers are seen at all: by marks of others the root of a layer may be opaque."""
        for index, layer in enumerate(self.sb.layers if self.sb.params.dialects else ()):
            if is_opaque_to_others(layer.root, layer.root.listxattr()):
                return min(index + (self.sb.upper is None), len(self.sb.lower))
        return len(self.sb.lower)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every descriptor and give up the locks."""
        with self.sb.lock:
            self.sb.close()

    def subscribe(self, listener: Listener) -> None:
        """Have every :mod:`pyunionfs.events` event passed to ``listener``, synchronously."""
        self.sb.listeners.append(listener)

    @property
    def stale(self) -> Callable[[Ino], None] | None:
        """See :class:`pyunionfs.vfs.Operations`."""
        return self.sb.stale

    @stale.setter
    def stale(self, callback: Callable[[Ino], None] | None) -> None:
        self.sb.stale = callback

    @property
    def interrupted(self) -> Callable[[], bool] | None:
        """See :class:`pyunionfs.vfs.Operations`."""
        return self.sb.interrupted

    @interrupted.setter
    def interrupted(self, callback: Callable[[], bool] | None) -> None:
        self.sb.interrupted = callback

    @property
    def journal(self) -> Journal | None:
        """See :class:`pyunionfs.vfs.Operations`."""
        return self.sb.journal

    @journal.setter
    def journal(self, journal: Journal | None) -> None:
        self.sb.journal = journal

    def restore(self, states: Mapping[Ino, Held]) -> None:
        with self.sb.lock:
            held.restore(self.sb, states)

    @property
    def locks(self) -> list[int]:
        """The descriptors that hold the upper and the work directory for this union; none if it has none."""
        return self.sb.locks

    def identities(self) -> list[tuple[int, int]]:
        """The directory of each layer, top to bottom: st_dev and st_ino."""
        return [(st.st_dev, st.st_ino) for st in (os.fstat(layer.root.fd) for layer in self.sb.layers)]

    @property
    def root(self) -> Inode:
        """The inode of the root."""
        return self.sb.table.root

    @property
    def work_path(self) -> str | None:
        """The work directory, None in a read-only union."""
        return os.path.abspath(os.fsdecode(self.sb.work)) if self.sb.work is not None else None

    @property
    def uses_user_xattrs(self) -> bool:
        """Whether the marks are kept in user.overlay.* rather than trusted.overlay.*."""
        return self.sb.marks is marks.USER
