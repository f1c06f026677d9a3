"""What one implementation has written, the other shows as the same tree, and can go on with."""

import os
import random
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import changes
import mounts
import pytest
from mounts import Layers, Mounter, Options
from trees import Device, Dir, File, Snapshot, Whiteout, build, diff, snapshot

from pyunionfs.verify import stacks

OPTIONS: dict[str, Options] = mounts.OPTION_SETS
BOTH: dict[str, Mounter] = {"kernel": mounts.kernel, "ours": mounts.ours}


@pytest.fixture(params=OPTIONS)
def options(request: pytest.FixtureRequest, requires: Callable[..., None]) -> Options:
    requires("kernel_overlay_userxattr" if request.param == "userxattr" else "kernel_overlay", "pyunionfs")
    requires("other_users")
    return OPTIONS[request.param]


@pytest.fixture(params=["kernel to ours", "ours to kernel"])
def sides(request: pytest.FixtureRequest) -> tuple[Mounter, Mounter]:
    """Who writes, and who reads it then."""
    writer, reader = request.param.split(" to ")
    return BOTH[writer], BOTH[reader]


def look(path: Path, options: Options = mounts.PLAIN) -> Snapshot:
    """All that is there; the kernel lists whiteouts of directories that are merged with no other.

    With userxattr it parts the names of what holds no user xattrs (see ``pyunionfs.verify.divergences``).
    """
    found = snapshot(path, ghosts=True)
    if not options.get("userxattr"):
        return found
    return {name: entry if entry.type == "file" else replace(entry, links=()) for name, entry in found.items()}


def test_scripted_changes(tmp_path: Path, options: Options, sides: tuple[Mounter, Mounter]) -> None:
    layers = Layers.create(tmp_path, lowers=2)
    build(layers.lower[0], changes.TOP)
    build(layers.lower[1], changes.BOTTOM)
    writer, reader = sides
    with writer(layers, options) as merged:
        changes.change(merged)
        written = look(merged, options)
    with reader(layers, options) as merged:
        assert not diff(written, look(merged, options), names=("written", "read"))


def test_both_write_the_same_upper(tmp_path: Path, options: Options) -> None:
    uppers, merged_trees = {}, {}
    lowers = Layers.create(tmp_path, lowers=2)
    build(lowers.lower[0], changes.TOP)
    build(lowers.lower[1], changes.BOTTOM)
    for name, mounter in BOTH.items():
        layers = lowers.with_upper(tmp_path / name)
        with mounter(layers, options) as merged:
            changes.change(merged)
            merged_trees[name] = look(merged, options)
        uppers[name] = snapshot(layers.upper, upper=True)
    assert not diff(merged_trees["kernel"], merged_trees["ours"], names=("kernel", "ours"))
    assert not diff(uppers["kernel"], uppers["ours"], names=("kernel", "ours"))


@pytest.mark.parametrize("seed", range(4))
def test_random_changes(tmp_path: Path, options: Options, sides: tuple[Mounter, Mounter], seed: int) -> None:
    layers = stacked(tmp_path, options, seed)
    writer, reader = sides
    with writer(layers, options) as merged:
        told = changes.change_at_random(merged, random.Random(seed), 150)
        written = look(merged, options)
    with reader(layers, options) as merged:
        assert not diff(written, look(merged, options), names=("written", "read")), "\n".join(told)


@pytest.mark.parametrize("seed", range(4, 7))
def test_taking_turns_gives_what_the_kernel_alone_gives(tmp_path: Path, options: Options, seed: int) -> None:
    lowers = stacked(tmp_path, options, seed)
    alone, turns = lowers.with_upper(tmp_path / "alone"), lowers.with_upper(tmp_path / "turns")
    for turn in range(6):
        with mounts.kernel(alone, options) as merged:
            told = changes.change_at_random(merged, random.Random(seed * 100 + turn), 30)
            expected = look(merged, options)
        mounter = mounts.ours if turn % 2 else mounts.kernel
        with mounter(turns, options) as merged:
            assert changes.change_at_random(merged, random.Random(seed * 100 + turn), 30) == told
            assert not diff(expected, look(merged, options), names=("kernel alone", "in turns"))
    if options["index"] == "off":  # which name of a hard link is copied up depends on which the caller used
        uppers = snapshot(alone.upper, upper=True), snapshot(turns.upper, upper=True)
        assert not diff(*uppers, names=("alone", "turns"))


def stacked(root: Path, options: Options, tree: int) -> Layers:
    """The three lowers of one tree of ``pyunionfs.verify``."""
    layers = Layers.create(root, lowers=stacks.LAYERS)
    shape = stacks.Shape(
        "user.overlay." if options.get("userxattr") else "trusted.overlay.",
        redirects=options["redirect_dir"] == "on",
        metacopy=options["metacopy"] == "on",
        index=options["index"] == "on",
    )
    for lower, directory in zip(layers.lower, stacks.layers_of(str(tree), shape), strict=True):
        build(lower, {"r": stacks.placed(directory, "")})
    return layers


def test_whiteouts_in_the_form_of_xattrs(tmp_path: Path, options: Options) -> None:
    """A layer that itself lies on an overlay cannot hold devices 0:0 (overlayfs.rst, "Nesting")."""
    prefix = "user.overlay." if options.get("userxattr") else "trusted.overlay."
    layers = Layers.create(tmp_path, lowers=2)
    hidden = File("", xattrs={f"{prefix}whiteout": b""})
    build(
        layers.lower[0],
        {
            "marked": Dir({"gone": hidden, "kept": "top"}, xattrs={f"{prefix}opaque": b"x"}),
            "unmarked": {"device": Whiteout()},
        },
    )
    build(
        layers.lower[1],
        {"marked": {"gone": "x", "kept": "x", "below": "x"}, "unmarked": {"device": "x"}},
    )
    with mounts.kernel(layers, options) as merged:
        expected = look(merged, options)
    with mounts.ours(layers, options) as merged:
        assert not diff(expected, look(merged, options), names=("kernel", "ours"))
        assert sorted(os.listdir(merged / "marked")) == ["below", "kept"]


def answers(merged: Path, names: list[bytes]) -> dict[bytes, tuple[int, int, bytes] | int]:
    """Owner and data of each name, or the errno."""
    found: dict[bytes, tuple[int, int, bytes] | int] = {}
    for name in names:
        path = os.path.join(os.fsencode(merged), name)
        try:
            status = os.lstat(path)
            data = Path(os.fsdecode(path)).read_bytes() if stat.S_ISREG(status.st_mode) else b""
            found[name] = (status.st_uid, status.st_gid, data)
        except OSError as error:
            found[name] = error.errno or 0
    return found


@pytest.mark.parametrize("reading", ["plain", "nofollow", "all"])
@pytest.mark.parametrize("written", ["redirect", "metacopy", "index", "all"])
def test_what_options_wrote_is_shown_or_refused_without_them_as_by_the_kernel(
    tmp_path: Path, written: str, reading: str, requires: Callable[..., None]
) -> None:
    requires("kernel_overlay", "pyunionfs", "other_users", "handles")
    layers = Layers.create(tmp_path, lowers=2)
    build(layers.lower[0], changes.TOP)
    build(layers.lower[1], changes.BOTTOM)
    with mounts.kernel(layers, OPTIONS[written]) as merged:
        changes.change(merged)
        if OPTIONS[written]["redirect_dir"] == "on":
            os.rename(merged / "tree", merged / "tree moved")
            os.rename(merged / "tree moved/a/b", merged / "files/b")
        os.chown(merged / "files/file3", 1000, 1000)
        os.rename(merged / "files/file3", merged / "file3")
        names = list(look(merged))
    options = {**OPTIONS["trusted"], "redirect_dir": "nofollow"} if reading == "nofollow" else OPTIONS["trusted"]
    if reading == "all":
        options = OPTIONS["all"]
    with mounts.kernel(layers, options) as merged:
        expected = answers(merged, names)
    with mounts.ours(layers, options) as merged:
        ours = answers(merged, names)
    assert ours == expected


def test_devices_and_special_modes(tmp_path: Path, options: Options, sides: tuple[Mounter, Mounter]) -> None:
    layers = Layers.create(tmp_path)
    build(layers.lower[0], {"null": Device(1, 3), "loop": Device(7, 1, block=True), "dir": Dir({}, 0o3777)})
    writer, reader = sides
    with writer(layers, options) as merged:
        os.chmod(merged / "null", 0o666)
        os.rename(merged / "loop", merged / "renamed")
        os.mknod(merged / "dir" / "zero", 0o020644, os.makedev(1, 5))
        os.chown(merged / "dir", 1000, 1000)
        written = look(merged, options)
    with reader(layers, options) as merged:
        assert not diff(written, look(merged, options), names=("written", "read"))
