"""Requests that another daemon had read, and perhaps carried out, when it died (FUSE_NOTIFY_RESEND, Linux 6.9).

Nothing is done twice. The kernel holds a directory's lock while it waits for a change of its names, so between the
two daemons nobody else has changed them, and what is there tells what was done:

1. What reads, writes at an offset, or sets to a value may be done again: twice is as once.
2. What makes a name found none before, so a name that is there was made by this request.
3. What removes a name found it before, so a name that is gone was removed by this request.
4. A rename took its name away, like 3; before an exchange the ledger was told what was where.
"""

import errno
import os
from collections.abc import Mapping

from ...vfs import Ino, Operations
from . import abi, replies
from .abi import Opcode
from .requests import Call, Reply, Requests

_MAKING = (Opcode.MKNOD, Opcode.MKDIR, Opcode.LINK, Opcode.CREATE)
_REMOVING = (Opcode.UNLINK, Opcode.RMDIR)
_RENAMING = (Opcode.RENAME, Opcode.RENAME2)


class Resent:
    """Answers what was sent again."""

    def __init__(self, requests: Requests, operations: Operations, exchanges: Mapping[int, Ino]) -> None:
        self._requests = requests
        self._ops = operations
        self._exchanges = exchanges

    def answer(self, call: Call) -> Reply:
        """As the methods of :class:`.requests.Requests`."""
        if call.opcode == Opcode.RENAME2 and self._was_exchanged(call):
            return b""
        try:
            return self._requests.by_opcode[call.opcode](call)
        except FileExistsError:
            return self._made(call)
        except FileNotFoundError:
            if call.opcode in _REMOVING or call.opcode in _RENAMING:
                return b""
            raise
        except OSError as error:
            if error.errno == errno.ENODATA and call.opcode == Opcode.REMOVEXATTR:
                return b""
            raise

    def _made(self, call: Call) -> Reply:
        if call.opcode == Opcode.SETXATTR:
            return self._was_set(call)
        if call.opcode == Opcode.SYMLINK or call.opcode in _MAKING:
            name = bytes(call.payload).split(b"\0", 1)[0]
            attr = self._ops.lookup(call.nodeid, name)
            entry = replies.entry(attr)
            if call.opcode != Opcode.CREATE:
                return entry
            flags = abi.CREATE_IN.unpack_from(call.head, call.at)[0]
            return entry + self._requests.opened(call, attr.ino, flags)
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _was_set(self, call: Call) -> Reply:
        """XATTR_CREATE of what is there: by this request, if it has the value."""
        size, _, _, _ = abi.SETXATTR_IN.unpack_from(call.head, call.at)
        name, value = bytes(call.payload).split(b"\0", 1)
        if self._ops.getxattr(call.nodeid, name) != value[:size]:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        return b""

    def _was_exchanged(self, call: Call) -> bool:
        """Raises ESTALE if what was to be exchanged is in neither place."""
        ino = self._exchanges.get(call.unique & ~abi.RESENT)
        if ino is None:
            return False
        parent, _, _ = abi.RENAME2_IN.unpack_from(call.head, call.at)
        old, new = bytes(call.payload).split(b"\0")[:2]
        if self._requests.ino_at(call.nodeid, old) == ino:
            return False
        if self._requests.ino_at(parent, new) == ino:
            return True
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
