"""Finding the lower objects that marks name by file handle (ovl_decode_real_fh, ovl_check_origin_fh)."""

import errno
import os
from collections.abc import Sequence

from .. import linux
from ..overlay.backing import Backing
from ..overlay.layer import Layer
from ..overlay.marks import Origin

_INVALID_KIND = 0xFF  # FILEID_INVALID: of a filesystem without handles, and never to be opened
_GONE = (errno.ESTALE, errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP)


class Handles:
    """Opens file handles in a set of layers; use it in a ``with``.

    ``able`` is False for who may not open any (it takes CAP_DAC_READ_SEARCH). A layer on a filesystem that has no
    handles is left out: nothing of it was ever named by one.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._fds: list[tuple[Layer, int]] = []
        self.able = True
        for layer in layers:
            fd = os.open(b"/proc/self/fd/%d" % layer.root.fd, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._fds.append((layer, fd))
            try:
                os.close(linux.open_by_handle_at(fd, *linux.name_to_handle_at(*layer.root.at()), os.O_PATH))
            except OSError as error:
                self.able &= error.errno not in (errno.EPERM, errno.EACCES)
                os.close(self._fds.pop()[1])

    def __enter__(self) -> "Handles":
        return self

    def __exit__(self, *_: object) -> None:
        for _layer, fd in self._fds:
            os.close(fd)

    def knows(self, handle: Origin) -> bool:
        """Whether :meth:`find` can tell that the object is gone."""
        return self.able and handle.kind != _INVALID_KIND

    def find(self, handle: Origin) -> os.stat_result | None:
        """Attributes of the object that a handle names; None if no layer's filesystem has it."""
        for layer, fd in self._fds:
            uuid = layer.uuid()
            if any(uuid) and any(handle.uuid) and uuid != handle.uuid:
                continue
            try:
                opened = linux.open_by_handle_at(fd, handle.kind, handle.handle, os.O_PATH)
            except OSError as error:
                if error.errno not in _GONE:
                    raise
                continue
            try:
                return os.fstat(opened)
            finally:
                os.close(opened)
        return None


def is_handle_of(handle: Origin, backing: Backing) -> bool:
    """Whether a handle is that of an object (ovl_verify_fh)."""
    try:
        return (handle.kind, handle.handle) == linux.name_to_handle_at(*backing.at())
    except OSError:
        return True  # it has none that could be compared
