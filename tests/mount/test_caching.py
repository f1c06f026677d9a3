"""What the kernel keeps of us is told anew when another request changes it."""

import errno
import os
from pathlib import Path

import mounts
import pytest
from mounts import Layers, Mounter


def seen(path: Path) -> tuple[int, int, int]:
    st = path.stat()
    return st.st_nlink, st.st_ctime_ns, st.st_mtime_ns


def test_a_copy_up_by_opening_shows_in_the_attributes(layers: Layers, union: Mounter) -> None:
    directory = layers.lower[0] / "dir"
    directory.mkdir()
    (directory / "one").write_text("x")
    os.link(directory / "one", directory / "two")
    (directory / "alone").touch()
    options = {**mounts.PLAIN, "noopen": "off"} if union is mounts.devfuse else mounts.PLAIN
    with union(layers, options) as merged:
        before = {name: seen(merged / "dir" / name) for name in ("one", "alone", "")}
        with open(merged / "dir/one", "a"), open(merged / "dir/alone", "a"):
            after = {name: seen(merged / "dir" / name) for name in ("one", "alone", "")}
    assert (before["one"][0], after["one"][0]) == (2, 1), "the copy has one name"
    for name in before:
        assert after[name][1] > before[name][1], f"ctime of {name or 'the directory'} is that of the copy"
        assert after[name][2] == before[name][2]


def test_one_object_that_cannot_be_shown_does_not_hide_the_others(layers: Layers, our_mount: Mounter) -> None:
    for name in ("good", "odd"):
        (layers.upper / name).mkdir()
        (layers.lower[0] / name).mkdir()
    os.setxattr(layers.upper / "odd", "trusted.overlay.redirect", b"mal/formed")
    with our_mount(layers) as merged:
        assert sorted(os.listdir(merged)) == ["good", "odd"]
        with pytest.raises(OSError) as caught:
            (merged / "odd").stat()
        assert caught.value.errno == errno.EINVAL
