"""Which directory a walk will list next: the first one below those that it has listed, in the listings' order.

So go find, rm, tar, du and whatever else descends as it reads. Who sorts first goes otherwise, and is let alone.
"""

import threading
from collections import deque
from collections.abc import Sequence

from ... import vfs
from ...vfs import Ino
from .meanwhile import Meanwhile

_SURE = 3  # so many directories came as expected
_MOST = 4096  # directories that are still to come


class Walk(Meanwhile):
    """Follows the listings, and has the next directory's names looked up (``Operations.ahead``) meanwhile."""

    def __init__(self, operations: vfs.Operations) -> None:
        super().__init__()
        self._ops = operations
        self._lock = threading.Lock()  # rings are served by several threads
        self._listing = vfs.ROOT
        self._below: list[Ino] = []  # directories in the one that is being listed
        self._to_come: deque[Ino] = deque(maxlen=_MOST)  # the next one last
        self._right = 0  # guesses, less those that were wrong

    def starts(self) -> None:
        """Nobody has come yet; whoever does looks into the root first. And what a process that was forked touches
        for the first time is copied, which takes longer than the rest of a request. The layers may still be made:
        so nothing is kept."""
        self.do(self._ops.ahead(vfs.ROOT, keep=False))

    def begins(self, ino: Ino) -> None:
        """A directory is listed from its beginning."""
        with self._lock:
            self._begins(ino)

    def _begins(self, ino: Ino) -> None:
        self.do(None)
        self._to_come.extend(reversed(self._below))
        self._listing, self._below = ino, []
        if self._to_come and self._to_come[-1] == ino:
            self._to_come.pop()
            self._right += 1
        elif ino in self._to_come:  # some were left out
            while self._to_come.pop() != ino:
                self._right -= 1
            self._right = max(self._right, 0)
        else:
            self._to_come.clear()
            self._right = 0

    def goes_on(self, ino: Ino, below: Sequence[Ino], *, ended: bool) -> None:
        """These directories were found in it. At its end, whoever reads it turns to what was found."""
        with self._lock:
            if ino != self._listing:
                return
            self._below += below
            if ended and self._right >= _SURE and (self._below or self._to_come):
                self.do(self._ops.ahead(self._below[0] if self._below else self._to_come[-1]))
