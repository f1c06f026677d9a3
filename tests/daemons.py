"""What a daemon uses, from outside: memory, descriptors, system calls for data."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path


def resident(pid: int) -> int:
    """Resident memory in bytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def written(pid: int) -> int:
    """How many calls that write it has made: one for each answer to the kernel, one for each piece of data."""
    found = re.search(r"syscw: (\d+)", Path(f"/proc/{pid}/io").read_text())
    assert found
    return int(found[1])


def forget(condition: Callable[[], bool], *, seconds: float = 15) -> bool:
    """Have the kernel drop its inodes until a condition holds: FORGET has no answer to wait for."""
    for _ in range(int(seconds * 4)):
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
        if condition():
            return True
        time.sleep(0.25)
    return False
