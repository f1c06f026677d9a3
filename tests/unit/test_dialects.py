"""Layers with the marks of others: AUFS's and fuse-overlayfs's, read with ``dialects=on`` and never shown."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trees import Dir, File, Node, Whiteout, build

from pyunionfs import Overlay, Paths

OPAQUE = [
    Dir({".wh..wh..opq": "", "new": "top"}),
    Dir({".wh..opq": Whiteout(), "new": "top"}),
    Dir({".wh..wh..opq": "", ".wh..opq": Whiteout(), "new": "top"}),
    Dir({"new": "top"}, xattrs={"trusted.overlay.opaque": b"y"}),
    Dir({"new": "top"}, xattrs={"user.overlay.opaque": b"y"}),
    Dir({"new": "top"}, xattrs={"user.fuseoverlayfs.opaque": b"y"}),
]


class Union:
    """Some lower layers under an upper one, by paths."""

    def __init__(self, root: Path, *lowers: dict[str | bytes, Node], upper: dict[str | bytes, Node] | None = None):
        self.lower = [root / f"lower{number}" for number in range(len(lowers))]
        self.upper = root / "upper"
        for path, tree in zip([*self.lower, self.upper], [*lowers, upper or {}], strict=True):
            path.mkdir()
            build(path, tree)
        self.overlay = Overlay(self.lower, self.upper, options={"dialects": "on"})
        self.files = Paths(self.overlay)

    def names(self, path: str = "/") -> list[str]:
        return sorted(os.fsdecode(name) for name in self.files.listdir(path))


@pytest.fixture
def union(tmp_path: Path, requires: Callable[..., None]) -> Iterator[Callable[..., Union]]:
    requires("devices")
    made: list[Union] = []

    def make(*lowers: dict[str | bytes, Node], upper: dict[str | bytes, Node] | None = None) -> Union:
        made.append(Union(tmp_path, *lowers, upper=upper))
        return made[-1]

    yield make
    for one in made:
        one.overlay.close()


Make = Callable[..., Union]


@pytest.mark.parametrize("listed_first", [True, False])
@pytest.mark.parametrize("mark", ["", Whiteout(), Dir({"x": ""})], ids=["file", "device", "directory"])
def test_a_whiteout_by_name_hides_what_is_below(union: Make, mark: Node, *, listed_first: bool) -> None:
    one = union({".wh.a": mark, "d": {".wh.b": mark}}, {"a": "old", "d": {"b": "old", "c": "kept"}})
    for path, names in ("/", ["d"]), ("/d", ["c"]):
        if listed_first:
            assert one.names(path) == names
        for name in (".wh.a", "a", ".wh.b", "b"):
            assert not one.files.exists(os.path.join(path, name))
        assert one.names(path) == names


def test_it_hides_nothing_of_its_own_layer(union: Make) -> None:
    one = union({".wh.a": "", "a": "new"}, {"a": "old"})
    assert one.names() == ["a"]
    assert one.files.read_bytes("/a") == b"new"


@pytest.mark.parametrize("directory", OPAQUE, ids=range(len(OPAQUE)))
@pytest.mark.parametrize("where", ["lower", "upper"])
def test_an_opaque_directory_shows_nothing_of_below(union: Make, where: str, directory: Dir) -> None:
    """fuse-overlayfs 1.10 shows it after the parent was listed: with two or more lower layers."""
    below = {"d": {"old": "x", "sub": {"older": "x"}}}
    one = union({"d": directory}, below, below) if where == "lower" else union(below, below, upper={"d": directory})
    assert one.names() == ["d"]
    assert one.names("/d") == ["new"]
    assert not one.files.exists("/d/old")
    assert not one.files.exists("/d/sub/older")


def test_an_opaque_root_hides_the_layers_below(union: Make) -> None:
    one = union({"a": ""}, {".wh..wh..opq": "", "b": ""}, {"c": ""})
    assert one.names() == ["a", "b"]
    assert not one.files.exists("/c")


def test_aufs_keeps_its_own_for_itself(union: Make) -> None:
    one = union({".wh..wh.plnk": {"x": ""}, ".wh..wh.aufs": "", ".wh..wh.orph": {}, ".wh.": "", "a": ""}, {"b": ""})
    assert one.names() == ["a", "b"]


@pytest.mark.parametrize("mark", [".wh..", ".wh..."])
def test_what_hides_no_name_hides_nothing(union: Make, mark: str) -> None:
    assert union({mark: "", "a": ""}, {"b": ""}).names() == ["a", "b"]


def test_a_hidden_name_is_free(union: Make) -> None:
    one = union({".wh.a": "", ".wh.d": ""}, {"a": "old", "d": {"old": ""}})
    one.files.write_bytes("/a", b"new")
    one.files.mkdir("/d")
    assert one.files.read_bytes("/a") == b"new"
    assert one.names("/d") == []


def test_a_directory_of_marks_is_empty(union: Make) -> None:
    one = union({"d": {".wh.x": "", ".wh..wh..opq": ""}}, {"d": {"x": "", "y": ""}}, upper={"e": {".wh.z": ""}})
    one.files.rmdir("/d")
    one.files.rmdir("/e")
    assert one.names() == []


def test_marks_in_the_upper_layer_give_way(union: Make) -> None:
    """As an upper directory of fuse-overlayfs has them, without root."""
    one = union({"a": "old", "b": "old"}, upper={".wh.a": "", ".wh.b": ""})
    assert one.names() == []
    one.files.write_bytes("/a", b"new")
    one.files.unlink("/a")
    assert one.names() == []
    assert not one.files.exists("/a")


def test_no_mark_can_be_made(union: Make) -> None:
    one = union({"a": "x"})
    for attempt in (
        lambda: one.files.write_bytes("/.wh.a", b""),
        lambda: one.files.mkdir("/.wh.a"),
        lambda: one.files.rename("/a", "/.wh.b"),
        lambda: one.files.link("/a", "/.wh.b"),
    ):
        with pytest.raises(PermissionError):
            attempt()
    assert one.names() == ["a"]


def test_their_xattrs_are_hidden(union: Make) -> None:
    marks = ["trusted.overlay.origin", "user.overlay.impure", "user.fuseoverlayfs.origin"]
    xattrs = {**dict.fromkeys(marks, b"x"), "user.mine": b"1"}
    one = union({"a": File("x", xattrs=xattrs), "d": Dir(xattrs={"user.fuseoverlayfs.opaque": b"y"})})
    with one.files._at(b"/a") as attr:
        assert one.overlay.listxattr(attr.ino) == [b"user.mine"]
        for name in marks[1:]:  # the first is in our own namespace, and escaped
            with pytest.raises(OSError) as caught:
                one.overlay.getxattr(attr.ino, name.encode())
            assert caught.value.errno == errno.ENODATA
            with pytest.raises(PermissionError):
                one.overlay.setxattr(attr.ino, name.encode(), b"y", 0)
    one.files.chmod("/a", 0o600)
    one.files.mkdir("/d/new")
    assert not [name for path in ("a", "d") for name in os.listxattr(one.upper / path) if "fuseoverlayfs" in name]


def test_without_the_option_they_are_names_like_others(tmp_path: Path) -> None:
    for name in ("lower", "upper"):
        (tmp_path / name).mkdir()
    build(tmp_path / "lower", {".wh.a": "", "a": ""})
    with Overlay([tmp_path / "lower"], tmp_path / "upper") as overlay:
        assert sorted(Paths(overlay).listdir("/")) == [b".wh.a", b"a"]


@pytest.mark.parametrize("listed_first", [True, False])
def test_a_directory_made_where_one_was_hidden_by_name_is_empty(union: Make, *, listed_first: bool) -> None:
    one = union({"d": {"a": {"below": ""}, "b": ""}}, upper={"d": {".wh.a": ""}})
    if listed_first:
        assert one.names("/d") == ["b"]
    one.files.mkdir("/d/a")
    assert one.names("/d/a") == []


def test_a_directory_moves_to_where_one_was_hidden_by_name(union: Make) -> None:
    one = union({"a": {"below": ""}}, upper={".wh.a": "", "new": {"mine": ""}})
    one.files.rename("/new", "/a")
    assert one.names("/a") == ["mine"]
