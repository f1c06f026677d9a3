"""Where a union meets the rest of the machine: other mounts, other filesystems, many layers."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import syscalls
from mounts import Layers, Mounter, unmount

import pyunionfs


def test_layers_are_not_crossed_into_other_mounts(layers: Layers, our_mount: Mounter) -> None:
    hidden = layers.lower[0] / "point"
    hidden.mkdir()
    (hidden / "below").touch()
    syscalls.mount("none", hidden, "tmpfs", "")
    try:
        (hidden / "above").touch()
        with our_mount(layers) as merged:
            assert os.listdir(merged / "point") == ["below"]
    finally:
        unmount(hidden)


def test_layers_on_several_filesystems_look_like_one(tmp_path: Path, our_mount: Mounter) -> None:
    layers = Layers.create(tmp_path, lowers=2)
    syscalls.mount("none", layers.lower[1], "tmpfs", "")
    try:
        for lower, names in zip(layers.lower, ("ab", "cd"), strict=True):
            for name in names:
                (lower / name).mkdir()
                (lower / name / "file").write_text(name)
        with our_mount(layers) as merged:
            found = [path.stat() for path in merged.rglob("*")]
            assert len({st.st_dev for st in found}) == 1
            assert len({st.st_ino for st in found}) == len(found)
            before = (merged / "c/file").stat().st_ino
            (merged / "c/file").chmod(0o600)
            assert (merged / "c/file").stat().st_ino == before
            assert {entry.name: entry.inode() for entry in os.scandir(merged)} == {
                name: (merged / name).stat().st_ino for name in "abcd"
            }
    finally:
        unmount(layers.lower[1])


@pytest.mark.parametrize("place", ["upper", "work"])
def test_a_mount_point_inside_our_own_directories_is_refused(
    layers: Layers, place: str, requires: Callable[..., None]
) -> None:
    requires("pyunionfs")
    inside = getattr(layers, place) / "inside"
    inside.mkdir()
    with (
        pytest.raises(OSError, match=f"inside the {place} directory"),
        pyunionfs.mounted(lower=layers.lower, upper=layers.upper, work=layers.work, mountpoint=inside),
    ):
        pass


def test_a_union_of_unions(tmp_path: Path, our_mount: Mounter) -> None:
    inner = Layers.create(tmp_path / "inner", lowers=2)
    (inner.lower[1] / "file").write_text("innermost")
    (inner.lower[1] / "gone").touch()
    with our_mount(inner) as first:
        (first / "gone").unlink()
        (first / "dir").mkdir()
        made = Layers.create(tmp_path / "outer")
        with our_mount(Layers((first,), made.upper, made.work, made.merged)) as second:
            assert sorted(os.listdir(second)) == ["dir", "file"]
            with open(second / "file", "a") as file:
                file.write("+outer")
            (second / "dir").rmdir()
        assert (first / "file").read_text() == "innermost"
        assert (made.upper / "file").read_text() == "innermost+outer"
        assert stat.S_ISCHR((made.upper / "dir").lstat().st_mode)


def test_writeback_keeps_what_was_written(layers: Layers, our_mount: Mounter) -> None:
    (layers.lower[0] / "file").write_bytes(b"lower" * 1000)
    with our_mount(layers, {"writeback": "on"}) as merged:
        with open(merged / "file", "ab") as file:
            for number in range(1000):
                file.write(b"%03d" % number)
                file.flush()
        assert (merged / "file").stat().st_size == 8000
    assert (layers.upper / "file").read_bytes() == b"lower" * 1000 + b"".join(b"%03d" % n for n in range(1000))


def test_lower_layers_are_not_touched_even_by_reading(layers: Layers, union: Mounter) -> None:
    lower = layers.lower[0]
    (lower / "dir").mkdir()
    (lower / "dir/file").write_text("x")
    (lower / "link").symlink_to("dir")
    paths = [lower, lower / "dir", lower / "dir/file", lower / "link"]
    for path in paths:
        os.utime(path, (0, 0), follow_symlinks=False)
    with union(layers) as merged:
        assert os.listdir(merged / "dir") == ["file"]
        assert (merged / "dir/file").read_text() == "x"
        assert os.readlink(merged / "link") == "dir"
        os.listdir(merged)
    assert [path.lstat().st_atime for path in paths] == [0, 0, 0, 0]


def test_the_upper_directory_is_not_seen_through_a_lower_layer(tmp_path: Path, union: Mounter) -> None:
    layers = Layers.create(tmp_path)
    (tmp_path / "beside").touch()
    with union(Layers((tmp_path,), layers.upper, layers.work, layers.merged)) as merged:
        with pytest.raises(OSError) as caught:
            os.listdir(merged / "upper")
        assert caught.value.errno == errno.ELOOP
        assert (merged / "beside").exists()
