"""Memory and descriptors that grow without end, and mounts that hang because they serve themselves."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mounts
import pytest
from daemons import descriptors, forget, resident
from mounts import Layers, Mounter
from sources import source
from trees import build

import pyunionfs

LARGE = 10_000


def day(merged: Path, number: int) -> None:
    """What a container does all day, in little: files come, grow, are renamed, and go."""
    work = merged / f"work{number}"
    work.mkdir()
    for step in range(20):
        path = work / f"file{step}"
        path.write_bytes(b"x" * 1000)
        with path.open("ab") as file:
            file.write(b"y")
        path.rename(work / f"renamed{step}")
        os.link(work / f"renamed{step}", work / f"link{step}")
        os.setxattr(work / f"link{step}", "user.number", b"%d" % step)
    with (merged / f"lower{number % 100}").open("ab") as file:
        file.write(b"+")
    os.listdir(merged)
    for name in os.listdir(work):
        os.unlink(work / name)
    work.rmdir()


@source("fuse-overlayfs 222")
@pytest.mark.slow
@pytest.mark.timeout(1200, method="signal")
def test_memory_does_not_grow_from_day_to_day(
    layers: Layers, our_mount: Mounter, requires: Callable[..., None], request: pytest.FixtureRequest
) -> None:
    """Each round is worth 200 names; what 10 bytes of each would leave behind is seen after some thousand."""
    requires("drop_caches")
    rounds = 2000 if request.config.getoption("--long") else 60
    build(layers.lower[0], {f"lower{number}": "x" for number in range(100)})
    with our_mount(layers) as merged:
        pid = mounts.daemon_of(merged)
        for number in range(rounds // 4):
            day(merged, number)
        forget(lambda: False, seconds=1)
        memory, files = resident(pid), descriptors(pid)
        for number in range(rounds):
            day(merged, number)
        assert forget(lambda: resident(pid) < memory + (4 << 20) and descriptors(pid) <= files + 4)


@source("fuse-overlayfs 210")
@pytest.mark.timeout(1800, method="signal")
def test_directories_come_and_go_beyond_the_limit_of_descriptors(
    layers: Layers, our_mount: Mounter, request: pytest.FixtureRequest
) -> None:
    """With a limit of 256, as many as the report made (a quarter of a million) need not be made to see it."""
    rounds = 262_144 if request.config.getoption("--long") else 2000
    with our_mount(layers) as merged:
        pid = mounts.daemon_of(merged)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (256, 256))
        before = descriptors(pid)
        for _ in range(rounds):
            os.mkdir(merged / "temp")
            os.rmdir(merged / "temp")
        assert descriptors(pid) <= before + 4


@source("fuse-overlayfs 360")
@pytest.mark.timeout(120, method="signal")
def test_a_busy_directory_of_10_000_files(
    layers: Layers, our_mount: Mounter, requires: Callable[..., None]
) -> None:
    """A mail queue: 10,000 entries that stay, others that come and go. Memory stays where one listing put it."""
    requires("drop_caches")
    incoming = layers.lower[0] / "incoming"
    incoming.mkdir()
    for number in range(LARGE):
        os.mknod(incoming / f"mail{number}")
    with our_mount(layers) as merged:
        pid = mounts.daemon_of(merged)

        def rounds(count: int) -> None:
            for number in range(count):
                path = merged / "incoming" / f"new{number}"
                path.write_bytes(b"mail")
                path.rename(merged / "incoming" / "active")
                (merged / "incoming" / f"mail{number}").stat()
                os.unlink(merged / "incoming" / "active")
                if number % 50 == 0:
                    assert len(os.listdir(merged / "incoming")) == LARGE

        rounds(100)
        memory = resident(pid)
        rounds(500)
        assert resident(pid) < memory + (24 << 20)


# -- mounts that could wait for themselves: looked at by child processes, which can be killed


def looks(*commands: str, cwd: Path) -> list[str]:
    return [
        subprocess.run(
            ["sh", "-c", command], cwd=cwd, capture_output=True, text=True, timeout=30, check=True
        ).stdout
        for command in commands
    ]


@source("fuse-overlayfs 364")
def test_a_mount_point_above_all_of_its_layers(tmp_path: Path, our_mount: Mounter) -> None:
    root = tmp_path / "overlay"
    made = Layers.create(root)
    build(made.lower[0], {"etc": {"hosts": "x\n"}, "usr": {"bin": {}}})
    with our_mount(Layers(made.lower, made.upper, made.work, root)) as merged:
        listed, read, _ = looks("ls -R .", "cat etc/hosts", "echo new >usr/bin/x; rm etc/hosts", cwd=merged)
        assert "hosts" in listed
        assert read == "x\n"
    assert (made.upper / "usr/bin/x").read_text() == "new\n"


@source("fuse-overlayfs 344", "fuse-overlayfs 318")
def test_a_mount_over_one_of_its_lower_layers(tmp_path: Path, our_mount: Mounter) -> None:
    """Mods over a game's directory: the layer below the mount point stays what it was."""
    made = Layers.create(tmp_path, lowers=2)
    build(made.lower[0], {"game": {"data": "original\n", "old": {"file": "x"}}})
    build(made.lower[1], {"game": {"mod": "added\n"}})
    with our_mount(Layers(made.lower, made.upper, made.work, made.lower[0])) as merged:
        listed, read, _ = looks("ls game", "cat game/data game/mod", "rm -r game/old; echo >game/save", cwd=merged)
        assert listed == "data\nmod\nold\n"
        assert read == "original\nadded\n"
        assert sorted(os.listdir(merged / "game")) == ["data", "mod", "save"]
    assert sorted(os.listdir(made.lower[0] / "game")) == ["data", "old"]


@source("fuse-overlayfs 393")
def test_an_upper_directory_as_the_mount_point_is_refused(layers: Layers) -> None:
    with (
        pytest.raises(OSError, match="inside the upper directory") as caught,
        pyunionfs.mounted(lower=layers.lower, upper=layers.upper, work=layers.work, mountpoint=layers.upper),
    ):
        pass
    assert caught.value.errno == errno.EIO
    assert sys.exc_info() == (None, None, None)
    assert not os.path.ismount(layers.upper)
