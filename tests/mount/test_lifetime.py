"""From mount to unmount: signals, sudden death, locks, and mounting again."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mounts
import pytest
from mounts import Layers, Mounter
from trees import build, diff, snapshot

CLI = [sys.executable, "-m", "pyunionfs"]


@pytest.fixture
def filled(layers: Layers) -> Layers:
    build(layers.lower[0], {"file": "lower", "dir": {"below": "x"}})
    return layers


def wait_for_end(pid: int) -> None:
    """Wait for a process that is not a child of ours."""
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} lives on")


def kill(merged: Path) -> None:
    """A mount that nobody serves any more, and nobody will."""
    pids = mounts.processes_of(merged)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        wait_for_end(pid)


def run(*arguments: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *map(os.fspath, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def mount_by_cli(layers: Layers) -> subprocess.CompletedProcess[str]:
    return run(
        "mount", "--lower", str(layers.lower[0]), "--upper", layers.upper, "--work", layers.work, layers.merged
    )


def is_mounted(path: Path) -> bool:
    return path in mounts.mount_points()


def test_the_command_line_mounts_and_unmounts(filled: Layers, requires) -> None:
    requires("pyunionfs")
    done = mount_by_cli(filled)
    try:
        assert done.returncode == 0, done.stderr
        assert (filled.merged / "file").read_bytes() == b"lower"
        (filled.merged / "new").write_bytes(b"new")
        pid = mounts.daemon_of(filled.merged)
    finally:
        ended = run("umount", filled.merged)
    assert ended.returncode == 0, ended.stderr
    assert not is_mounted(filled.merged)
    assert (filled.upper / "new").read_bytes() == b"new"
    wait_for_end(pid)
    assert run("umount", filled.merged).returncode != 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts_cleanly(filled: Layers, our_mount: Mounter, number: signal.Signals) -> None:
    with our_mount(filled) as merged:
        pids = mounts.processes_of(merged)
        with open(merged / "file", "ab") as file:
            file.write(b"+")
        before = snapshot(merged)
        os.kill(mounts.daemon_of(merged), number)
        for pid in pids:  # the one that serves, and the one that unmounts after it
            wait_for_end(pid)
        assert not is_mounted(merged)
    with our_mount(filled) as merged:
        assert not diff(before, snapshot(merged))


def test_after_a_sudden_death_umount_heals(filled: Layers, our_mount: Mounter) -> None:
    with our_mount(filled) as merged:
        with open(merged / "file", "ab") as file:
            file.write(b"+")
        kill(merged)
        with pytest.raises(OSError) as caught:
            os.listdir(merged)
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        assert is_mounted(merged)
        done = run("umount", merged)
        assert done.returncode == 0, done.stderr
        assert not is_mounted(merged)
        assert os.listdir(merged) == []
    with our_mount(filled) as merged:
        assert (merged / "file").read_bytes() == b"lower+"
        assert sorted(os.listdir(merged)) == ["dir", "file"]


@pytest.mark.parametrize("in_use", [False, True], ids=["idle", "in use"])
def test_mounting_over_a_dead_mount_takes_its_place(filled: Layers, our_mount: Mounter, in_use: bool) -> None:
    with our_mount(filled) as merged:
        with open(merged / "file", "ab") as file:
            file.write(b"+")
        held = os.open(merged, os.O_RDONLY) if in_use else -1
        try:
            kill(merged)
            done = mount_by_cli(filled)
            assert done.returncode == 0, done.stderr
            assert mounts.mount_points().count(merged) == 1, "they must not stack"
            assert (merged / "file").read_bytes() == b"lower+"
        finally:
            if in_use:
                os.close(held)
        done = run("umount", merged)
        assert done.returncode == 0, done.stderr
        assert not is_mounted(merged)


def test_mounting_over_a_live_mount_leaves_it(filled: Layers, our_mount: Mounter) -> None:
    with our_mount(filled) as merged:
        pid = mounts.daemon_of(merged)
        assert mount_by_cli(filled).returncode != 0, "the upper directory is in use"
        assert mounts.daemon_of(merged) == pid


def test_what_a_death_leaves_in_the_workdir_is_cleaned(filled: Layers, our_mount: Mounter) -> None:
    with our_mount(filled) as merged:
        os.unlink(merged / "file")
        kill(merged)
    (filled.work / "work" / "#left").mkdir()
    (filled.work / "work" / "#left" / "below").write_bytes(b"")
    with our_mount(filled) as merged:
        assert not (filled.work / "work" / "#left").exists()
        assert os.listdir(merged) == ["dir"]


def test_mounting_again_at_once(filled: Layers, our_mount: Mounter) -> None:
    for number in range(5):
        with our_mount(filled) as merged:
            assert len(os.listdir(merged)) == 2 + number
            (merged / f"new{number}").write_bytes(b"")
    assert len(os.listdir(filled.upper)) == 5


def test_a_second_mount_of_the_same_upper_is_busy(filled: Layers, our_mount: Mounter, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    (tmp_path / "work2").mkdir()
    with our_mount(filled) as merged:
        for work in (filled.work, tmp_path / "work2"):
            second = Layers(filled.lower, filled.upper, work, tmp_path / "second")
            done = mount_by_cli(second)
            if done.returncode == 0:
                run("umount", second.merged)
            assert done.returncode != 0
            assert "busy" in done.stderr.lower() or "in use" in done.stderr.lower(), done.stderr
        assert (merged / "file").read_bytes() == b"lower"


def test_umount_refuses_while_a_file_is_open(filled: Layers, our_mount: Mounter) -> None:
    with our_mount(filled) as merged:
        with open(merged / "file", "rb") as file:
            done = run("umount", merged)
            assert done.returncode != 0
            assert "in use" in done.stderr
            assert file.read() == b"lower"
        assert run("umount", merged).returncode == 0


def test_two_mounts_over_one_lower_keep_apart(filled: Layers, union: Mounter, tmp_path: Path) -> None:
    one, two = filled.with_upper(tmp_path / "one"), filled.with_upper(tmp_path / "two")
    with union(one) as first, union(two) as second:
        with open(first / "file", "ab") as file:
            file.write(b" first")
        os.unlink(second / "dir" / "below")
        assert (second / "file").read_bytes() == b"lower"
        assert os.listdir(first / "dir") == ["below"]
        assert os.listdir(second / "dir") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lower": "/nowhere/at/all"}, "nowhere"),
        ({"upper": "/nowhere/at/all"}, "nowhere"),
        ({"mountpoint": "/nowhere/at/all"}, "nowhere"),
        ({"options": "nonsense=on"}, "nonsense"),
    ],
    ids=["lower", "upper", "mountpoint", "options"],
)
def test_a_wrong_argument_is_named(filled: Layers, requires, change: dict[str, str], words: str) -> None:
    requires("pyunionfs")
    arguments = {
        "lower": os.fspath(filled.lower[0]),
        "upper": os.fspath(filled.upper),
        "work": os.fspath(filled.work),
        "options": "xino=off",
        "mountpoint": os.fspath(filled.merged),
    } | change
    done = run(
        "mount", "--lower", arguments["lower"], "--upper", arguments["upper"], "--work", arguments["work"],
        "-o", arguments["options"], arguments["mountpoint"],
    )  # fmt: skip
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not is_mounted(filled.merged)
