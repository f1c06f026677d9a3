"""Features that need layers of their own kind: what each side shows of them, and what it answers."""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mounts
import pytest
from mounts import Layers, Mounter, Options
from trees import build

BOTH: dict[str, Mounter] = {"kernel": mounts.kernel, "ours": mounts.ours}
METACOPY = mounts.METACOPY


@pytest.fixture(autouse=True)
def needed(requires: Callable[..., None]) -> None:
    requires("kernel_overlay", "pyunionfs", "other_users", "handles")


def answer(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def seen(path: Path) -> Any:
    """Attributes and data of a file, or which error keeps them."""
    st = answer(lambda: os.lstat(path))
    if isinstance(st, str):
        return st
    attributes = (stat.filemode(st.st_mode), st.st_uid, st.st_size, st.st_blocks, st.st_nlink)
    return (*attributes, answer(path.read_bytes) if stat.S_ISREG(st.st_mode) else None)


def metacopy(path: Path, size: int, *, redirect: str | None = None, mark: bytes = b"") -> None:
    """Make a metacopy by hand, as tools that build images do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, size)
    os.setxattr(path, "trusted.overlay.metacopy", mark)
    if redirect is not None:
        os.setxattr(path, "trusted.overlay.redirect", redirect.encode())


@pytest.fixture
def data_only(tmp_path: Path) -> Layers:
    """A layer of metacopies, and two data-only layers with what they mean, below."""
    layers = Layers.create(tmp_path, lowers=2)
    top, bottom = layers.lower
    data1, data2 = tmp_path / "data1", tmp_path / "data2"
    build(data1_made(data1), {"blobs": {"a": "data of a", "both": "upper blob"}, "dir": {"x": "x"}})
    build(data1_made(data2), {"blobs": {"b": "data of b!", "both": "lower blob"}, "hidden": "never shown"})
    metacopy(top / "a", 9, redirect="/blobs/a")
    metacopy(top / "sub/b", 10, redirect="/blobs/b")
    metacopy(top / "both", 10, redirect="/blobs/both")
    metacopy(top / "nowhere", 10, redirect="/blobs/none")
    metacopy(top / "directory", 10, redirect="/dir")
    metacopy(top / "relative", 10, redirect="blobs")
    metacopy(top / "unmarked", 10)
    metacopy(top / "through", 6)
    build(bottom, {"through": "bottom", "plain": "plain"})
    os.chown(top / "a", 1000, 1000)
    return layers


def data1_made(path: Path) -> Path:
    path.mkdir()
    return path


def lowerdir(layers: Layers) -> str:
    root = layers.upper.parent
    return ":".join(map(str, layers.lower)) + f"::{root / 'data1'}::{root / 'data2'}"


def mount_data_only(name: str, layers: Layers, options: Options) -> Any:
    if name == "kernel":
        return mounts.kernel(layers, {**options, "lowerdir": lowerdir(layers)})
    return mounts.ours(layers, options, data=[layers.upper.parent / "data1", layers.upper.parent / "data2"])


def test_data_only_layers(tmp_path: Path, data_only: Layers) -> None:
    told: dict[str, Any] = {}
    for name in BOTH:
        layers = data_only.with_upper(tmp_path / name)
        layers = Layers(layers.lower, layers.upper, layers.work, layers.merged)
        (tmp_path / name / "data1").symlink_to(tmp_path / "data1")
        (tmp_path / name / "data2").symlink_to(tmp_path / "data2")
        with mount_data_only(name, layers, METACOPY) as merged:
            names = [
                "a",
                "sub/b",
                "both",
                "nowhere",
                "directory",
                "relative",
                "unmarked",
                "through",
                "plain",
                "blobs",
            ]
            before = {path: seen(merged / path) for path in names}
            changes = [
                answer(lambda: os.chmod(merged / "a", 0o600)),
                answer(lambda: os.chmod(merged / "nowhere", 0o600)),
                answer(lambda: append(merged / "sub/b", b"+")),
                answer(lambda: append(merged / "nowhere", b"+")),
                answer(lambda: os.rename(merged / "both", merged / "sub/renamed")),
                answer(lambda: os.link(merged / "through", merged / "linked")),
            ]
            after = {path: seen(merged / path) for path in [*names, "sub/renamed", "linked"]}
            told[name] = [before, changes, after]
    assert told["kernel"] == told["ours"]
    assert told["ours"][0]["both"][-1] == b"upper blob"


def append(path: Path, data: bytes) -> int:
    with open(path, "ab") as file:
        return file.write(data)


@pytest.fixture(params=BOTH)
def mounter(request: pytest.FixtureRequest) -> Mounter:
    return BOTH[request.param]


def test_require_a_digest(tmp_path: Path) -> None:
    """Where there is no fs-verity: a metacopy without digest is refused, and none is made."""
    told: dict[str, Any] = {}
    for name, mount in BOTH.items():
        layers = Layers.create(tmp_path / name, lowers=2)
        metacopy(layers.lower[0] / "bare", 4)
        metacopy(layers.lower[0] / "digested", 4, mark=bytes([0, 36, 0, 1]) + bytes(32))
        metacopy(layers.lower[0] / "malformed", 4, mark=b"\1\4\0\0")
        build(layers.lower[1], {"bare": "bare", "digested": "dige", "malformed": "malf", "plain": "plain"})
        with mount(layers, {**METACOPY, "verity": "require"}) as merged:
            told[name] = {path: seen(merged / path) for path in ("bare", "digested", "malformed", "plain")}
            os.chmod(merged / "plain", 0o600)
            told[name]["chmod"] = answer(lambda merged=merged: os.chmod(merged / "bare", 0o600))
        told[name]["copy"] = (layers.upper / "plain").read_bytes(), os.listxattr(layers.upper / "plain")
    assert told["kernel"] == told["ours"]


def test_a_volatile_upper_is_not_mounted_again(tmp_path: Path) -> None:
    for first, mount in BOTH.items():
        layers = Layers.create(tmp_path / first)
        with mount(layers, {**mounts.PLAIN, "volatile": True}) as merged:
            (merged / "file").write_bytes(b"x")
            with open(merged / "file", "ab") as file:
                os.fsync(file.fileno())
        for again in BOTH.values():
            with pytest.raises(OSError, match=r"volatile|Invalid argument"), again(layers):
                pass
        shutil.rmtree(layers.work / "work/incompat")  # as overlayfs.rst tells those who know what they do
        with mounts.ours(layers) as merged:
            assert (merged / "file").read_bytes() == b"x"


@pytest.mark.parametrize("mode", ["auto", "on", "null", "off"])
def test_the_union_is_named(tmp_path: Path, mode: str) -> None:
    told: dict[str, Any] = {}
    for name, mount in BOTH.items():
        told[name] = []
        layers = Layers.create(tmp_path / name)
        build(layers.lower[0], {"dir": {"file": "x"}})
        for _ in range(2):
            with mount(layers, {**mounts.PLAIN, "uuid": mode}) as merged:
                os.chmod(merged / "dir/file", 0o600)
            told[name].append(answer(lambda layers=layers: len(os.getxattr(layers.upper, "trusted.overlay.uuid"))))
    assert told["kernel"] == told["ours"]


def test_a_hard_link_stays_one_file(tmp_path: Path, mounter: Mounter) -> None:
    """Under every name, in every order, over remounts by whoever comes next."""
    layers = Layers.create(tmp_path)
    build(layers.lower[0], {"dir": {"one": "data"}})
    for name in ("dir/two", "three", "four"):
        os.link(layers.lower[0] / "dir/one", layers.lower[0] / name)
    with mounter(layers, mounts.INDEX) as merged:
        ino = os.lstat(merged / "three").st_ino
        append(merged / "three", b"+")
        assert seen(merged / "dir/one")[4:] == (4, b"data+")
        os.unlink(merged / "dir/two")
        assert seen(merged / "four")[4] == 3
    for again in (mounts.ours, mounts.kernel, mounts.ours):
        with again(layers, mounts.INDEX) as merged:
            append(merged / "four", b"+")
            assert {os.lstat(merged / name).st_ino for name in ("dir/one", "three", "four")} == {ino}
            assert seen(merged / "dir/one")[4] == 3
            assert not (merged / "dir/two").exists()
    with mounts.ours(layers, mounts.INDEX) as merged:
        os.rename(merged / "four", merged / "dir/moved")
        os.link(merged / "three", merged / "five")
        assert seen(merged / "dir/moved")[4:] == (4, b"data++++")
        for name in ("dir/one", "three", "dir/moved", "five"):
            os.unlink(merged / name)
    assert os.listdir(layers.work / "index") == []
    with mounts.kernel(layers, mounts.INDEX) as merged:
        assert os.listdir(merged) == ["dir"]
        assert os.listdir(merged / "dir") == []


def test_an_index_belongs_to_its_upper_directory(tmp_path: Path, mounter: Mounter) -> None:
    layers = Layers.create(tmp_path)
    with mounter(layers, mounts.INDEX):
        pass
    other = tmp_path / "other"
    other.mkdir()
    stranger = Layers(layers.lower, other, layers.work, layers.merged)
    for mount in BOTH.values():
        with pytest.raises(OSError, match=r"Stale file handle|was made for others"), mount(stranger, mounts.INDEX):
            pass


def test_a_redirect_has_at_most_256_bytes(tmp_path: Path) -> None:
    """redirect_max, a parameter of the kernel's module, as it is by default."""
    long = "n" * 120
    told: dict[str, Any] = {}
    for name, mount in BOTH.items():
        layers = Layers.create(tmp_path / name)
        build(layers.lower[0], {long: {long: {"m" * 12: {"fits": "x"}, "m" * 15: {"does-not": "x"}}}})
        with mount(layers, mounts.REDIRECT) as merged:
            told[name] = []
            for length in (12, 15):
                old, new = merged / long / long / ("m" * length), merged / f"new{length}"
                told[name].append(answer(lambda old=old, new=new: os.rename(old, new)))
        redirect = os.getxattr(layers.upper / "new12", "trusted.overlay.redirect")
        told[name].append((len(redirect), redirect))
    assert told["kernel"] == told["ours"]
    assert told["ours"][:2] == [None, "EXDEV"]


def test_what_an_export_needs_is_of_one_form(tmp_path: Path, mounter: Mounter) -> None:
    """An upper directory with the origins and the index of nfs_export=on, whoever has written them.

    We index what has several names; the kernel all that it copies up, and keeps the numbers of that alone.
    """
    options = {**mounts.INDEX, "nfs_export": "on"}
    layers = Layers.create(tmp_path)
    build(layers.lower[0], {"dir": {"file": "x", "gone": "x"}, "one": "x"})
    os.link(layers.lower[0] / "one", layers.lower[0] / "two")
    with mounter(layers, options) as merged:
        numbers = {path: os.lstat(merged / path).st_ino for path in ("one", "two")}
        append(merged / "dir/file", b"+")
        append(merged / "one", b"+")
        os.unlink(merged / "dir/gone")
    for again in (mounts.kernel, mounts.pyfuse3, mounts.kernel):
        with again(layers, options) as merged:
            assert {path: os.lstat(merged / path).st_ino for path in numbers} == numbers
            assert ((merged / "dir/file").read_bytes(), (merged / "two").read_bytes()) == (b"x+", b"x+")
            assert os.listdir(merged / "dir") == ["file"]
            os.chmod(merged / "dir", 0o750)
