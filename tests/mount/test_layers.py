"""Unusual sets of layers: none to write to, very many, one that contains the mount, odd names, a full disk."""

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mounts
import pytest
import syscalls
from mounts import Layers, Mounter
from trees import Device, Whiteout, build


def test_without_an_upper_everything_is_read_only(tmp_path: Path, union: Mounter) -> None:
    layers = Layers.create(tmp_path, lowers=2)
    build(layers.lower[0], {"file": "top"})
    build(layers.lower[1], {"file": "bottom", "dir": {"below": "x"}})
    with union(layers, read_only=True) as merged:
        assert (merged / "file").read_bytes() == b"top"
        assert sorted(os.listdir(merged)) == ["dir", "file"]
        for action in (
            lambda: (merged / "new").write_bytes(b""),
            lambda: os.open(merged / "file", os.O_WRONLY),
            lambda: os.truncate(merged / "file", 0),
            lambda: os.mkdir(merged / "new"),
            lambda: os.unlink(merged / "file"),
            lambda: os.rmdir(merged / "dir"),
            lambda: os.rename(merged / "file", merged / "new"),
            lambda: os.link(merged / "file", merged / "new"),
            lambda: os.symlink("x", merged / "new"),
            lambda: os.mkfifo(merged / "new"),
            lambda: os.chmod(merged / "file", 0o600),
            lambda: os.utime(merged / "file"),
            lambda: os.setxattr(merged / "file", "user.name", b"x"),
        ):
            with pytest.raises(OSError) as caught:
                action()
            assert caught.value.errno == errno.EROFS


def test_whiteouts_and_kinds_through_three_layers(tmp_path: Path, union: Mounter) -> None:
    layers = Layers.create(tmp_path, lowers=3)
    build(layers.lower[0], {"gone": Whiteout(), "back": "again", "dir": {"hidden": Whiteout()}, "kind": {"a": "x"}})
    build(layers.lower[1], {"gone": "x", "back": Whiteout(), "dir": {"hidden": "x", "middle": "x"}, "kind": "file"})
    build(layers.lower[2], {"gone": {"a": "x"}, "back": "x", "dir": {"bottom": "x"}, "kind": {"b": "x"}})
    with union(layers) as merged:
        assert sorted(os.listdir(merged)) == ["back", "dir", "kind"]
        assert (merged / "back").read_bytes() == b"again"
        assert sorted(os.listdir(merged / "dir")) == ["bottom", "middle"]
        assert os.listdir(merged / "kind") == ["a"]
        with pytest.raises(FileNotFoundError):
            os.stat(merged / "gone")
        assert stat.S_ISDIR(os.stat(merged / "kind").st_mode)


@pytest.mark.timeout(120, method="signal")
def test_500_layers(tmp_path: Path, our_mount: Mounter) -> None:
    lowers = []
    for number in range(500):
        lower = tmp_path / f"a-name-of-some-length-for-layer-{number:03}"
        build(lower, {f"own{number}": str(number), "shared": str(number), "dir": {f"in{number}": ""}})
        lowers.append(lower)
    made = Layers.create(tmp_path, lowers=0)
    layers = Layers(tuple(lowers), made.upper, made.work, made.merged)
    with our_mount(layers) as merged:
        assert (merged / "shared").read_bytes() == b"0"
        assert (merged / "own499").read_bytes() == b"499"
        assert len(os.listdir(merged)) == 502
        assert len(os.listdir(merged / "dir")) == 500
        with open(merged / "own250", "ab") as file:
            file.write(b"+")
        os.unlink(merged / "shared")
        assert not (merged / "shared").exists()
    assert sorted(os.listdir(made.upper)) == ["own250", "shared"]


@pytest.mark.timeout(120, method="signal")
def test_a_lower_that_contains_the_mount_itself(tmp_path: Path, our_mount: Mounter) -> None:
    """As with the root directory as a lower: looking at the mount point through the mount must not wait for itself.

    Done by child processes that can be killed, for who waits in such a request cannot even fail.
    """
    lower = tmp_path / "root"
    lower.mkdir()
    made = Layers.create(lower / "deep")
    (lower / "file").write_bytes(b"x")
    layers = Layers((lower,), made.upper, made.work, made.merged)
    with our_mount(layers) as merged:
        inner = merged / "deep" / "merged"
        listed = subprocess.run(["ls", "-la", inner], capture_output=True, text=True, timeout=30, check=True)
        assert "file" not in listed.stdout
        walked = subprocess.run(["find", merged], capture_output=True, text=True, timeout=30, check=False)
        assert f"{merged}/file" in walked.stdout.splitlines()
        script = 'echo new >"$0/deep/merged/new" && rm "$0/file"'
        subprocess.run(["sh", "-c", script, merged], timeout=30, check=True)
        assert (inner / "new").read_text() == "new\n"
    assert sorted(os.listdir(made.upper)) == ["deep", "file"]
    assert os.listdir(made.merged) == []


@pytest.mark.slow
@pytest.mark.timeout(120, method="signal")
def test_the_root_directory_as_a_lower(tmp_path: Path, our_mount: Mounter) -> None:
    made = Layers.create(tmp_path, lowers=0)
    layers = Layers((Path("/"),), made.upper, made.work, made.merged)
    with our_mount(layers) as merged:
        through = os.fspath(merged) + os.fspath(merged)
        for command in (["ls", "-la", through], ["cat", f"{merged}/etc/passwd"], ["ls", f"{merged}/proc"]):
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        assert done.stdout == ""  # other filesystems are not part of a layer
        done = subprocess.run(
            ["chroot", merged, "/bin/sh", "-c", "echo run"], capture_output=True, timeout=30, check=True
        )
        assert done.stdout == b"run\n"


@pytest.mark.parametrize(
    "name", ["with space", "colon:inside", "comma,inside", "back\\slash", "caf\u00e9", "equals=x"]
)
def test_odd_names_of_layers(tmp_path: Path, our_mount: Mounter, name: str) -> None:
    layers = Layers.create(tmp_path / name)
    build(layers.lower[0], {"file": "x"})
    with our_mount(layers) as merged:
        with open(merged / "file", "ab") as file:
            file.write(b"y")
        assert (layers.upper / "file").read_bytes() == b"xy"


@pytest.mark.requires("devices")
def test_a_new_mount_has_devices_and_setuid_as_any_mount_by_root(
    layers: Layers, union: Mounter, requires: Callable[..., None]
) -> None:
    requires("devices")
    build(layers.lower[0], {"zero": Device(1, 5)})
    with union(layers) as merged, open(merged / "zero", "rb", buffering=0) as zero:
        assert zero.read(3) == b"\0\0\0"


@contextmanager
def small_filesystem(path: Path, size: str) -> Iterator[Path]:
    path.mkdir()
    syscalls.mount("tmpfs", path, "tmpfs", f"size={size}")
    try:
        yield path
    finally:
        mounts.unmount(path)


def append(path: Path, data: bytes) -> None:
    with open(path, "ab", buffering=0) as file:
        while data:
            data = data[file.write(data) :]


def _write_once_there_is_room(path: Path, data: bytes) -> None:
    """FUSE tells of a close after the close has returned, so an unlinked file keeps its room for a moment."""
    for _ in range(100):
        if os.statvfs(path.parent).f_bavail * os.statvfs(path.parent).f_frsize > 2 * len(data):
            break
        time.sleep(0.1)
    path.write_bytes(data)


def test_a_full_upper(tmp_path: Path, union: Mounter) -> None:
    """ENOSPC where it happens; the lower file is still seen whole, and space that is freed can be used."""
    with small_filesystem(tmp_path / "small", "2m") as small:
        base, writable = Layers.create(tmp_path), Layers.create(small, lowers=0)
        layers = Layers(base.lower, writable.upper, writable.work, base.merged)
        build(layers.lower[0], {"large": b"L" * (3 << 20), "small": b"s"})
        with union(layers) as merged:
            with pytest.raises(OSError) as caught:
                append(merged / "large", b"+")
            assert caught.value.errno == errno.ENOSPC
            assert (merged / "large").read_bytes() == b"L" * (3 << 20)
            assert sorted(os.listdir(merged)) == ["large", "small"]
            with pytest.raises(OSError) as caught:
                append(merged / "new", b"x" * (4 << 20))
            assert caught.value.errno == errno.ENOSPC
            os.unlink(merged / "new")
            _write_once_there_is_room(merged / "small", b"n" * 100_000)
            assert (merged / "small").read_bytes() == b"n" * 100_000


def test_layers_one_by_one(tmp_path: Path, requires: Callable[..., None]) -> None:
    """``lowerdir+`` and ``datadir+``, as the kernel's new mount API has them."""
    requires("pyunionfs", "trusted_xattrs")
    for name in ("a", "b", "data", "merged"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/file").write_text("a")
    (tmp_path / "b/file").write_text("b")
    (tmp_path / "data/blob").write_text("data")
    (tmp_path / "b/meta").touch()
    os.truncate(tmp_path / "b/meta", 4)
    os.setxattr(tmp_path / "b/meta", "trusted.overlay.metacopy", b"")
    os.setxattr(tmp_path / "b/meta", "trusted.overlay.redirect", b"/blob")
    layers = f"lowerdir+={tmp_path}/a,lowerdir+={tmp_path}/b,datadir+={tmp_path}/data"
    command = [sys.executable, "-m", "pyunionfs"]
    subprocess.run([*command, "mount", "-o", layers, "-o", "metacopy=on", tmp_path / "merged"], check=True)
    try:
        assert sorted(os.listdir(tmp_path / "merged")) == ["file", "meta"]
        assert (tmp_path / "merged/file").read_text() == "a"
        assert (tmp_path / "merged/meta").read_text() == "data"
    finally:
        subprocess.run([*command, "umount", tmp_path / "merged"], check=True)
    for wrong in (
        f"datadir+={tmp_path}/data,lowerdir+={tmp_path}/a",
        f"lowerdir={tmp_path}/a,lowerdir+={tmp_path}/b",
    ):
        done = subprocess.run(
            [*command, "mount", "-o", wrong, tmp_path / "merged"], capture_output=True, check=False
        )
        assert done.returncode == 1
