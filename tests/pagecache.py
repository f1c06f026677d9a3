"""What of a file is in memory."""

import os
from pathlib import Path


def is_cached(path: Path) -> bool:
    """Whether its beginning is. To look has the disk read it."""
    with open(path, "rb", buffering=0) as file:
        try:
            return bool(os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT))
        except OSError:  # it is not, or this filesystem cannot tell
            return False


def evict(path: Path) -> None:
    """Have it on the disk alone, if it is on one."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
