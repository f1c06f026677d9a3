"""Overlay's own xattrs through the mount: whoever sets, reads, lists or removes them gets what the kernel gives,
on disk too, and steers no union by it."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import mounts
import pytest
import syscalls
from mounts import Layers, Mounter, Options
from trees import Dir, File, build, diff, snapshot

MODES: dict[str, Options] = {"trusted": mounts.PLAIN, "user": mounts.USERXATTR}
MARKS = ["opaque", "whiteout", "redirect", "metacopy", "origin", "impure", "nlink", "upper", "uuid", "x"]
NAMES = [f"{prefix}.overlay.{mark}" for prefix in ("trusted", "user") for mark in MARKS]
NAMES += [f"{prefix}.overlay.overlay.opaque" for prefix in ("trusted", "user")]
NAMES += ["trusted.overlay", "user.overlay", "trusted.overlayx", "user.overlayx.y"]
OBJECTS = ("dir", "file", "new", "dir/copied")
VALUE = b"y"


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest, requires: Callable[..., None]) -> str:
    requires("trusted_xattrs", "user_xattrs", "kernel_overlay")
    name: str = request.param
    return name


def prepare(root: Path) -> Layers:
    """Layers with marks in them already, some of which hide something."""
    layers = Layers.create(root, lowers=2)
    marked = dict.fromkeys(("trusted.overlay.impure", "user.overlay.impure", "user.plain"), b"y")
    build(layers.lower[1], {"dir": {"below": "x", "copied": File("x", xattrs=marked)}, "file": "x"})
    build(layers.lower[0], {"dir": Dir({"above": "x"}, xattrs={**marked, "user.overlay.overlay.x": b"e"})})
    return layers


def attempt(action: Callable[[], object]) -> object:
    try:
        return action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def everything(merged: Path) -> list[tuple[str, str, object]]:
    """Each call on each name of each object, and what it gave."""
    os.close(os.open(merged / "new", os.O_CREAT | os.O_WRONLY))
    os.chmod(merged / "dir/copied", 0o600)
    told: list[tuple[str, str, object]] = []
    for path in OBJECTS:
        told.append((path, "list", sorted(os.listxattr(merged / path))))
        for name in NAMES:
            calls = {
                "get": lambda path=path, name=name: os.getxattr(merged / path, name),
                "set": lambda path=path, name=name: os.setxattr(merged / path, name, VALUE),
                "get again": lambda path=path, name=name: os.getxattr(merged / path, name),
                "replace": lambda path=path, name=name: os.setxattr(merged / path, name, b"z", os.XATTR_REPLACE),
            }
            told += [(f"{path} {name}", what, attempt(call)) for what, call in calls.items()]
        told.append((path, "list again", sorted(os.listxattr(merged / path))))
        for name in NAMES[::2]:
            told.append(
                (
                    f"{path} {name}",
                    "remove",
                    attempt(lambda path=path, name=name: os.removexattr(merged / path, name)),
                )
            )
    return told


def test_each_call_gives_what_the_kernel_gives(
    tmp_path: Path, our_mount: Mounter, kernel_mount: Mounter, mode: str
) -> None:
    told, uppers, views = [], [], []
    for who, mount in (("kernel", kernel_mount), ("ours", our_mount)):
        layers = prepare(tmp_path / who)
        with mount(layers, MODES[mode]) as merged:
            told.append(everything(merged))
        with mount(layers, MODES[mode]) as merged:
            views.append(snapshot(merged))
        uppers.append(snapshot(layers.upper, upper=True))
    different = [(kernel, ours) for kernel, ours in zip(*told, strict=True) if kernel != ours]
    assert different == []
    assert not diff(*views, names=("kernel", "ours"))
    assert not diff(*uppers, names=("kernel", "ours"))


def test_the_bare_prefix_is_no_name(tmp_path: Path, our_mount: Mounter, mode: str) -> None:
    """EINVAL, as the kernel's handlers of a prefix say (xattr_resolve_name)."""
    layers = prepare(tmp_path)
    with our_mount(layers, MODES[mode]) as merged:
        for action in (
            lambda: os.setxattr(merged / "file", f"{mode}.overlay.", VALUE),
            lambda: os.getxattr(merged / "file", f"{mode}.overlay."),
        ):
            with pytest.raises(OSError) as caught:
                action()
            assert caught.value.errno == errno.EINVAL


def test_a_mark_that_is_set_through_the_mount_marks_nothing(tmp_path: Path, union: Mounter, mode: str) -> None:
    layers = prepare(tmp_path)
    with union(layers, MODES[mode]) as merged:
        before = sorted(os.listdir(merged / "dir"))
        for mark in ("opaque", "redirect", "whiteout", "metacopy"):
            for path in ("dir", "file", "dir/copied"):
                attempt(lambda path=path, mark=mark: os.setxattr(merged / path, f"{mode}.overlay.{mark}", VALUE))
    assert mode + ".overlay.opaque" not in os.listxattr(layers.upper / "dir")
    with union(layers, MODES[mode]) as merged:
        assert sorted(os.listdir(merged / "dir")) == before == ["above", "below", "copied"]
        assert (merged / "file").read_text() == "x"


def test_an_ordinary_user_sets_no_mark_either(
    tmp_path: Path, union: Mounter, mode: str, requires: Callable[..., None]
) -> None:
    requires("other_users")
    layers = prepare(tmp_path)
    os.chown(layers.lower[0] / "dir", syscalls.USER, syscalls.GROUP)
    layers.upper.chmod(0o755)
    for lower in layers.lower:
        lower.chmod(0o755)
    with union(layers, MODES[mode]) as merged:
        told = syscalls.as_user(merged, lambda: [attempt(lambda n=n: os.setxattr("dir", n, VALUE)) for n in NAMES])
    assert told == [None if name.startswith("user.") else "EPERM" for name in NAMES]
    assert f"{mode}.overlay.opaque" not in os.listxattr(layers.upper / "dir")
    with union(layers, MODES[mode]) as merged:
        assert sorted(os.listdir(merged / "dir")) == ["above", "below", "copied"]
