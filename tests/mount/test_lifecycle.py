"""From the mount to the unmount: daemons that end well, that die, that follow each other."""

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import syscalls
from mounts import Layers, daemon_of, daemons, processes_of, unmount


def run(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyunionfs", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def mount(layers: Layers, *more: str) -> None:
    lower = ":".join(str(path) for path in layers.lower)
    run("mount", "--lower", lower, "--upper", layers.upper, "--work", layers.work, *more, layers.merged)


@pytest.fixture
def mounted(layers: Layers, requires: Callable[..., None]) -> Iterator[Layers]:
    requires("pyunionfs")
    (layers.lower[0] / "file").write_text("lower")
    mount(layers)
    yield layers
    unmount(layers.merged)


@contextmanager
def waiting_for(pid: int) -> Iterator[None]:
    """Do something that ends a process that is not our child, and wait for it."""
    pidfd = os.pidfd_open(pid)
    try:
        yield
        ended, _, _ = select.select([pidfd], [], [], 30)
        assert ended, "the daemon has not ended"
    finally:
        os.close(pidfd)


def test_what_nobody_waits_for_any_more_is_not_mounted(layers: Layers, requires: Callable[..., None]) -> None:
    """The command is killed while its daemon waits for the upper directory."""
    requires("pyunionfs")
    upper = os.open(layers.upper, os.O_RDONLY)
    fcntl.flock(upper, fcntl.LOCK_EX)
    words = ["--lower", str(layers.lower[0]), "--upper", str(layers.upper), "--work", str(layers.work)]
    command = [sys.executable, "-m", "pyunionfs", "mount", *words, str(layers.merged)]
    with subprocess.Popen(command) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not (daemon := children.read_text().split()):
            time.sleep(0.01)
        with waiting_for(int(daemon[0])):
            process.kill()
            process.wait()
            os.close(upper)
    assert not os.path.ismount(layers.merged)


def test_umount_waits_for_the_daemon(mounted: Layers) -> None:
    run("umount", mounted.merged)
    assert not os.path.ismount(mounted.merged)
    upper = os.open(mounted.upper, os.O_RDONLY)
    try:
        fcntl.flock(upper, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the daemon's lock ends with the daemon
    finally:
        os.close(upper)


def test_a_mount_in_use_is_busy_and_can_be_detached(mounted: Layers) -> None:
    with open(mounted.merged / "file") as file:
        done = run("umount", mounted.merged, check=False)
        assert done.returncode == 1
        assert "is in use (--lazy detaches it anyway)" in done.stderr
        with waiting_for(daemon_of(mounted.merged)):
            run("umount", "--lazy", mounted.merged)
            assert not os.path.ismount(mounted.merged)
            assert file.read() == "lower", "whoever uses it may go on"
            file.close()


def test_what_is_mounted_is_told(mounted: Layers) -> None:
    (row,) = [i for i in json.loads(run("mounts", "--json").stdout) if i["mountpoint"] == str(mounted.merged)]
    assert row["state"] == "live"
    assert row["lower"] == [str(mounted.lower[0])]
    assert row["upper"] == str(mounted.upper)
    assert row["pid"] == daemon_of(mounted.merged)
    assert str(mounted.upper) in run("mounts").stdout
    assert "user.pyunionfs" not in os.listxattr(mounted.merged)


def test_the_daemon_holds_on_to_nothing_of_its_caller(mounted: Layers) -> None:
    first, *_ = processes_of(mounted.merged)
    process = Path(f"/proc/{daemon_of(mounted.merged)}")
    assert (process / "cwd").readlink() == Path("/")
    for number in (0, 1, 2):
        assert (process / "fd" / str(number)).readlink() == Path("/dev/null")
    status = (process / "stat").read_text().rpartition(")")[2].split()
    assert status[3] == str(first), "it should be in a session of its own"


def test_descriptors_of_the_caller_are_not_kept(layers: Layers, requires: Callable[..., None]) -> None:
    requires("pyunionfs")
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "pyunionfs", "mount", "--lower", str(layers.lower[0]), str(layers.merged)]
    subprocess.run(command, pass_fds=[writing], check=True)
    try:
        os.close(writing)
        ready, _, _ = select.select([reading], [], [], 10)
        assert ready, "the daemon keeps the pipe open"
        assert os.read(reading, 1) == b""
    finally:
        os.close(reading)
        run("umount", layers.merged)


def test_explain_and_diff_on_a_mount(mounted: Layers) -> None:
    assert "provided by: lower 0" in run("explain", mounted.merged / "file").stdout
    (mounted.merged / "file").unlink()
    assert run("diff", mounted.merged).stdout == "D /file\n"
    assert "rule 1" in run("explain", mounted.merged / "file").stdout


def test_the_log_tells_what_happened(layers: Layers, requires: Callable[..., None], tmp_path: Path) -> None:
    requires("pyunionfs")
    (layers.lower[0] / "file").write_text("lower")
    mount(layers, "--log", str(tmp_path / "log"))
    try:
        with open(layers.merged / "file", "a") as file:
            file.write("x")
        (layers.merged / "file").unlink()
    finally:
        run("umount", layers.merged)
    told = (tmp_path / "log").read_text()
    assert "copy up /file (5 bytes from lower 0)" in told
    assert "whiteout /file" in told


def test_in_the_foreground_it_stays(layers: Layers, requires: Callable[..., None]) -> None:
    requires("pyunionfs")
    command = [sys.executable, "-m", "pyunionfs", "mount", "--foreground", "--lower", str(layers.lower[0])]
    with subprocess.Popen([*command, str(layers.merged)], stderr=subprocess.PIPE) as process:
        try:
            for _ in range(200):
                if os.path.ismount(layers.merged):
                    break
                time.sleep(0.05)
            assert processes_of(layers.merged)[0] == process.pid
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert not os.path.ismount(layers.merged)


def test_the_end_of_a_daemon_leaves_what_is_mounted_on_top(mounted: Layers) -> None:
    syscalls.mount("none", mounted.merged, "tmpfs", "")
    try:
        (mounted.merged / "mark").touch()
        pids = daemons(mounted.merged.parent)
        with waiting_for(min(pids)):
            os.kill(max(pids), signal.SIGTERM)
        assert (mounted.merged / "mark").exists(), "somebody else's mount is gone"
    finally:
        unmount(mounted.merged)
