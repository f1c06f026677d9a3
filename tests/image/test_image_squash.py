"""In what images differ, and an image of one layer that shows the same as several."""

import json
import os
import stat
from pathlib import Path

import pytest
from archives import Picture, directory, docker_25, entry, hardlink, layer, outer, symlink, write
from click.testing import CliRunner

from pyunionfs.cli import main
from pyunionfs.container.commit import squash
from pyunionfs.image.errors import ImageError
from pyunionfs.image.images import Image
from pyunionfs.image.store import Store
from pyunionfs.vfs import ROOT
from pyunionfs.views.compare import compare, view

BASE = layer(
    directory("./", mode=0o555, mtime=7),
    directory("etc", mtime=1),
    entry("etc/hosts", "localhost", mtime=1),
    entry("etc/motd", "hello", mode=0o600, uid=5, gid=6, mtime=1),
    directory("data", mtime=1),
    entry("data/old", "old", mtime=1),
    directory("data/sub", mtime=1),
    entry("data/sub/deep", "deep", mtime=1),
    entry("kind", "a file", mtime=1),
    symlink("link", "etc/motd", mtime=1),
)
MIDDLE = layer(
    entry("big", "x" * 100_000, mtime=2),
    entry("etc/motd", "HELLO", mode=0o600, uid=5, gid=6, mtime=1),  # nothing but the data tells
    entry("etc/.wh.hosts"),
    directory("data", mtime=2),
    entry("data/.wh..wh..opq"),
    entry("data/new", "new", mtime=2),
    hardlink("data/pair", "data/new"),
    directory("kind", mtime=2),
    entry("kind/inside", "1", mtime=2),
)
TOP = layer(
    entry(".wh.big"),
    hardlink("data/twin", "data/new"),
    entry("etc/.wh.motd"),
    entry("link", "a file now", mtime=3),
)


@pytest.fixture
def images(store: Store, tmp_path: Path) -> dict[str, Image]:
    """``base``, ``middle`` and ``top``, each with one layer more."""
    stack = {"base": [BASE], "middle": [BASE, MIDDLE], "top": [BASE, MIDDLE, TOP]}
    steps = [{"created_by": "ADD"}, {"created_by": "ENV A=1", "empty_layer": True}, {"created_by": "RUN"}]
    found = {}
    for name, layers in stack.items():
        picture = Picture(layers, tags=[f"{name}:1"], history=[*steps, {"created_by": "RUN"}][: len(layers) + 1])
        (found[name],) = store.load(write(tmp_path / name, outer(docker_25(picture))))
    return found


def differences(store: Store, old: Image, new: Image) -> list[str]:
    with view(store, old.layers) as before, view(store, new.layers) as after:
        assert after is not None
        return [f"{item.kind} {os.fsdecode(item.path)}" for item in compare(before, after)]


def test_what_is_added_changed_and_deleted(store: Store, images: dict[str, Image]) -> None:
    assert differences(store, images["base"], images["middle"]) == [
        *(
            "C .",
            "A big",
            "C data",
            "A data/new",
            "D data/old",
            "A data/pair",
            "D data/sub",
            "C etc",
            "D etc/hosts",
            "C etc/motd",
        ),
        *("C kind", "A kind/inside"),
    ]
    assert differences(store, images["middle"], images["top"]) == [
        *("D big", "C data", "A data/twin", "C etc", "D etc/motd", "C link"),
    ]
    assert differences(store, images["top"], images["top"]) == []


@pytest.mark.parametrize("onto", [None, "base", "middle"])
def test_an_image_of_one_layer_shows_the_same(store: Store, images: dict[str, Image], onto: str | None) -> None:
    base = images[onto] if onto else None
    made = squash(store, images["top"], onto=base, tag="flat:1")
    kept = base.layers if base else ()
    assert made.layers[: len(kept)] == kept
    assert len(made.layers) == len(kept) + 1
    assert differences(store, images["top"], made) == []
    assert differences(store, made, images["top"]) == []
    assert made.tags == ("flat:1",)
    with view(store, made.layers) as overlay:
        assert overlay is not None
        new = overlay.lookup(overlay.lookup(ROOT, b"data").ino, b"new")
        assert new.nlink == 2
    if onto != "middle":
        assert "big" not in {os.path.basename(path) for path in map(str, made.layers[-1].path.rglob("*"))}


def test_the_root_of_the_lowest_layer_is_kept(store: Store, images: dict[str, Image]) -> None:
    with view(store, squash(store, images["base"]).layers) as overlay:
        assert overlay is not None
        root = overlay.getattr(ROOT)
        assert (stat.S_IMODE(root.mode), root.mtime_ns) == (0o555, 7 * 10**9)


def test_the_root_is_that_of_the_image(store: Store, tmp_path: Path) -> None:
    """Also with layers that stay below."""
    private = layer(directory("./", mode=0o700, uid=5, gid=6), entry("a", "1"))
    for name, layers in (("one", [BASE]), ("two", [BASE, private])):
        store.load(write(tmp_path / name, outer(docker_25(Picture(layers, tags=[f"{name}:1"])))))
    one, two = store.image("one:1"), store.image("two:1")
    assert "C ." in differences(store, one, two)
    for onto in (None, one):
        made = squash(store, two, onto=onto)
        assert differences(store, two, made) == []
        with view(store, made.layers) as overlay:
            assert overlay is not None
            root = overlay.getattr(ROOT)
            assert (stat.S_IMODE(root.mode), root.uid, root.gid) == (0o700, 5, 6)


def test_xattrs_are_kept_and_times_are_whole_seconds(store: Store, tmp_path: Path) -> None:
    records = {"SCHILY.xattr.user.mine": "1", "mtime": "5.25"}
    base = layer(entry("a", "1", records=records), directory("d", records=records))
    (image,) = store.load(write(tmp_path / "x", outer(docker_25(Picture([base], tags=["x:1"])))))
    made = squash(store, image)
    assert differences(store, image, made) == []
    for name in ("a", "d"):
        path = made.layers[0].path / name
        assert os.getxattr(path, "user.mine") == b"1"
        assert path.stat().st_mtime_ns == 5 * 10**9


def test_names_that_other_tools_would_refuse(store: Store, images: dict[str, Image]) -> None:
    for name in ("Flat:1", "sha256:abc"):
        with pytest.raises(ImageError, match="small letters"):
            squash(store, images["base"], tag=name)


def test_the_steps_stay_without_layers(store: Store, images: dict[str, Image]) -> None:
    made = squash(store, images["top"], onto=images["base"])
    said = [(entry.step.created_by or entry.step.comment[:5], entry.layer is not None) for entry in made.history]
    assert said == [("ADD", True), ("ENV A=1", False), ("RUN", False), ("RUN", False), ("merge", True)]


def test_the_base_must_be_below(store: Store, images: dict[str, Image], tmp_path: Path) -> None:
    other = store.load(write(tmp_path / "x.tar", outer(docker_25(Picture([MIDDLE], tags=["other:1"])))))[0]
    with pytest.raises(ImageError, match="lowest layers"):
        squash(store, images["top"], onto=other)
    with pytest.raises(ImageError, match="lowest layers"):
        squash(store, images["base"], onto=images["top"])


def test_an_image_that_adds_nothing_has_no_layer_more(store: Store, images: dict[str, Image]) -> None:
    made = squash(store, images["base"], onto=images["base"])
    assert [item.diff_id for item in made.layers] == [item.diff_id for item in images["base"].layers]
    assert made.history[-1].layer is None


def test_the_commands(store: Store, images: dict[str, Image]) -> None:
    def run(*words: str) -> str:
        done = CliRunner().invoke(main, ["image", "--root", str(store.root), *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    made = json.loads(run("squash", "--onto", "base:1", "top:1", "flat:2", "--json"))
    assert (made["RepoTags"], made["Layers"]) == (["flat:2"], 2)
    assert run("diff", "top:1", "flat:2") == ""
    assert run("diff", "middle:1", "flat:2").splitlines()[0] == "D /big"
    told = json.loads(run("diff", "--json", "flat:2", "middle:1"))
    assert {"path": "/data/twin", "kind": "D"} in told
