"""SIGKILL of the daemon at random moments under load: what was acknowledged is there after the next mount.

The page cache is the kernel's and survives the daemon, so a change is acknowledged when its system call returned.
"""

import contextlib
import os
import random
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mounts
import pytest
from mounts import Layers, Mounter
from trees import Snapshot, build, diff, snapshot
from workload import TREE, Worker, apply

WORKERS = ("one", "two")
ROUNDS = 10  # of one test; --long makes 20 tests


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(20 if metafunc.config.getoption("--long") else 1))


def test_what_was_acknowledged_survives_the_daemon(
    layers: Layers, our_mount: Mounter, seed: int, can: Callable[[str], bool], tmp_path: Path
) -> None:
    choices = random.Random(seed)
    for name in WORKERS:
        for root in (layers.lower[0], tmp_path / "twins"):
            build(root / name, TREE)
    in_flight: dict[str, list[str]] = {}
    for _ in range(ROUNDS):
        with our_mount(layers) as merged:
            catch_up(merged, tmp_path / "twins", in_flight)
            in_flight = work_until_killed(merged, tmp_path / "twins", choices)
    with our_mount(layers) as merged:
        catch_up(merged, tmp_path / "twins", in_flight)
        seen = snapshot(merged)
    assert os.listdir(layers.work / "work") == []
    if can("kernel_overlay"):
        with mounts.kernel(layers) as merged:
            assert not diff(seen, snapshot(merged, ghosts=True), names=("pyunionfs", "kernel"))


def catch_up(merged: Path, twins: Path, in_flight: dict[str, list[str]]) -> None:
    """Compare with the twins, to which the step in flight is made if it happened to the mount."""
    for name in WORKERS:
        seen = timeless(merged / name)
        difference = diff(timeless(twins / name), seen, names=("acknowledged", "seen"))
        if difference and name in in_flight:
            apply(in_flight[name], twins / name)
            assert not diff(timeless(twins / name), seen), f"{in_flight[name]} is half done:\n{difference}"
        else:
            assert not difference


def timeless(path: Path) -> Snapshot:
    """A snapshot without times: which of them a crash may change, the crash explorer knows."""
    return {name: replace(entry, mtime_ns=0) for name, entry in snapshot(path).items()}


def work_until_killed(merged: Path, twins: Path, choices: random.Random) -> dict[str, list[str]]:
    """Let workers loose, kill the daemon after some steps; returns the step in flight of each."""
    daemon = mounts.processes_of(merged)
    with workers(merged, twins, choices) as started:
        enough, moment = choices.randrange(10, 150), choices.random() / 200
        alive = {worker.pipe: worker for worker in started}
        while alive:
            for pipe in select.select([*alive], [], [])[0]:
                if not alive[pipe].listen():
                    del alive[pipe]
            if daemon and sum(worker.done() for worker in started) >= enough:
                time.sleep(moment)
                for pid in daemon:
                    os.kill(pid, signal.SIGKILL)
                daemon = []
        assert not daemon, [worker.told[-2000:] for worker in started]
        return {worker.twin.name: step for worker in started if (step := worker.in_flight()) is not None}


@contextmanager
def workers(merged: Path, twins: Path, choices: random.Random) -> Iterator[list[Worker]]:
    started: list[Worker] = []
    try:
        for name in WORKERS:
            started.append(Worker.start(merged / name, twins / name, choices.getrandbits(32)))
        yield started
    finally:
        for worker in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
            os.waitpid(worker.pid, 0)
            os.close(worker.pipe)
