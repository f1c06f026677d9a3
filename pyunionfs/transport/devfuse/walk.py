"""Which directory a walk will list next: the first one below those that it has listed, in the listings' order.

So go find, rm, tar, du and whatever else descends as it reads. Who sorts first goes otherwise, and is let alone.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence

from ... import vfs
from ...vfs import Ino

log = logging.getLogger(__name__)

_SURE = 3  # so many directories came as expected
_MOST = 4096  # directories that are still to come


class Walk:
    """Follows the listings, and has the next directory's names looked up (``Operations.ahead``) while there is
    nothing else to do."""

    def __init__(self, operations: vfs.Operations) -> None:
        self._ops = operations
        self._lock = threading.Lock()  # rings are served by several threads
        self._listing = vfs.ROOT
        self._below: list[Ino] = []  # directories in the one that is being listed
        self._to_come: deque[Ino] = deque(maxlen=_MOST)  # the next one last
        self._right = 0  # guesses, less those that were wrong
        self._work: Iterator[None] | None = None

    def starts(self) -> None:
        """Nobody has come yet; whoever does looks into the root first. And what a process that was forked touches
        for the first time is copied, which takes longer than the rest of a request."""
        self._work = self._ops.ahead(vfs.ROOT)

    def begins(self, ino: Ino) -> None:
        """A directory is listed from its beginning."""
        with self._lock:
            self._begins(ino)

    def _begins(self, ino: Ino) -> None:
        self._work = None
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
                self._work = self._ops.ahead(self._below[0] if self._below else self._to_come[-1])

    def step(self) -> bool:
        """Do a little of the work, by the one thread that has nothing else to do; False if there is none."""
        work = self._work
        if work is None:
            return False
        try:
            next(work)
        except (StopIteration, OSError):
            self._work = None
        except Exception:
            log.exception("bug in looking ahead")
            self._work = None
        return self._work is not None
