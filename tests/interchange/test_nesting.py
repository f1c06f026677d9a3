"""Unions of unions, three deep, each of them the kernel's or ours (overlayfs.rst, "Nesting overlayfs mounts").

The marks of the layers of an outer union are written through the inner one, which keeps them escaped.
"""

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mounts
import pytest
from mounts import Layers
from trees import Dir, File, HardLink, Node, build

from pyunionfs import linux

_OPAQUE, _WHITEOUT = "trusted.overlay.opaque", "trusted.overlay.whiteout"
LAYERS: dict[str | bytes, Node] = {
    "top": {
        "opaque": Dir({"own": "top"}, xattrs={_OPAQUE: b"y"}),
        "merged": Dir({"gone": File(xattrs={_WHITEOUT: b""}), "own": "top"}, xattrs={_OPAQUE: b"x"}),
    },
    "bottom": {"opaque": {"hidden": "bottom"}, "merged": {"gone": "bottom", "kept": "bottom"}, "file": "bottom"},
}
SHOWN = {
    "opaque": {"own": "top"},
    "merged": {"own": "top", "kept": "bottom"},
    "file": "bottom",
}
KINDS = {"kernel": mounts.kernel, "ours": mounts.pyfuse3}


def content(path: Path) -> dict[str, object]:
    return {entry.name: content(entry) if entry.is_dir() else entry.read_text() for entry in path.iterdir()}


@contextmanager
def union_in(where: Path, kind: str, root: Path) -> Iterator[Path]:
    """A union of two layers in the directory ``where``; its upper directory is on the disk."""
    build(where, LAYERS)
    made = Layers.create(root, lowers=0)
    layers = Layers((where / "top", where / "bottom"), made.upper, made.work, made.merged)
    with KINDS[kind](layers) as merged:
        assert content(merged) == SHOWN
        yield merged


@pytest.mark.parametrize("kinds", list(itertools.product(KINDS, repeat=3))[1:], ids="-".join)
def test_three_deep(tmp_path: Path, kinds: tuple[str, str, str], requires: Callable[..., None]) -> None:
    """But not three of the kernel's, which allows two on each other."""
    requires("kernel_overlay", "pyunionfs", "trusted_xattrs")
    with (
        union_in(tmp_path / "layers", kinds[0], tmp_path / "1") as first,
        union_in(first / "layers", kinds[1], tmp_path / "2") as second,
        union_in(second / "layers", kinds[2], tmp_path / "3") as third,
    ):
        marks = [name for name in os.listxattr(second / "layers/top/opaque") if "overlay" in name]
        assert marks == [_OPAQUE]
        (third / "merged/kept").unlink()
        (third / "opaque/own").write_text("third")
        assert (second / "layers/bottom/merged/kept").read_text() == "bottom"
        assert content(third) == {**SHOWN, "merged": {"own": "top"}, "opaque": {"own": "third"}}


def test_an_upper_directory_in_a_union(tmp_path: Path, requires: Callable[..., None]) -> None:
    """Ours, on the kernel's."""
    requires("kernel_overlay", "pyunionfs")
    with mounts.kernel(Layers.create(tmp_path / "inner")) as inner:
        layers = Layers.create(inner / "outer")
        build(layers.lower[0], {"dir": {"file": "x"}})
        for _ in range(2):
            with mounts.pyfuse3(layers) as merged:
                (merged / "dir/file").write_text("changed")
        assert (layers.upper / "dir/file").read_text() == "changed"


def test_an_index_without_file_handles(tmp_path: Path, requires: Callable[..., None]) -> None:
    """The kernel has none then; ours is of a form of its own (pyunionfs/overlay/index.py)."""
    requires("kernel_overlay", "pyunionfs")
    inner = Layers.create(tmp_path / "inner")
    build(inner.lower[0], {"one": "x", "two": HardLink("one"), "three": HardLink("one")})
    with mounts.kernel(inner) as lower:
        with pytest.raises(OSError) as caught:
            linux.name_to_handle_at(linux.AT_FDCWD, os.fsencode(lower / "one"))
        assert caught.value.errno == errno.EOPNOTSUPP
        made = Layers.create(tmp_path / "outer", lowers=0)
        layers = Layers((lower,), made.upper, made.work, made.merged)
        for name, data in (("one", "xy"), ("three", "xyy")):
            with mounts.pyfuse3(layers, mounts.INDEX) as merged:
                with open(merged / name, "a") as file:
                    file.write("y")
                for other in ("one", "two", "three"):
                    assert (merged / other).read_text() == data
                    assert (merged / other).stat().st_nlink == 3
                assert len({(merged / other).stat().st_ino for other in ("one", "two", "three")}) == 1
