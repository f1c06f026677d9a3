"""Who is alone with a mount is served by one thread of its daemon, as long as nothing takes long."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import mounts
import pytest
from mounts import Layers

TURNS = 40


def sleeps(daemon: int) -> list[int]:
    """How often each of its threads has waited for something."""
    found = []
    for status in Path(f"/proc/{daemon}/task").glob("*/status"):
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        found.append(int(lines["voluntary_ctxt_switches"]))
    return found


def test_a_fast_disk_syncs_without_another_thread(layers: Layers, requires: Callable[..., None]) -> None:
    requires("pyunionfs")
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one processor does not say what is fast")
    taken: list[float] = []
    with mounts.devfuse(layers) as merged, open(merged / "file", "wb", buffering=0) as file:
        daemon = mounts.daemon_of(merged)
        for _ in range(50):
            before = sorted(sleeps(daemon))
            for _ in range(TURNS):
                file.write(bytes(4096))
                begun = time.perf_counter()
                os.fsync(file.fileno())
                taken.append(time.perf_counter() - begun)
            after = sorted(sleeps(daemon))
            if len(after) == len(before) and sum(after[:-1]) - sum(before[:-1]) < TURNS / 4:
                return
    if statistics.median(taken) > 0.0003:
        pytest.skip("the disk is slow: others are not to wait for it")
    pytest.fail("another thread had its turn each time")
