"""What somebody changes in a lower layer behind our back: shown after a refresh, and never fatal before."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mounts
import pytest
from mounts import Layers
from trees import build, diff, snapshot

TREE = {
    "dir": {"kept": "kept", "gone": "gone", "file": "old", "sub": {"deep": "deep"}},
    "becomes": "a file",
    "x": {},
}


@pytest.fixture
def layers(tmp_path: Path, requires: Callable[..., None]) -> Iterator[Layers]:
    requires("pyunionfs")
    layers = Layers.create(tmp_path)
    build(layers.lower[0], TREE)
    with mounts.ours(layers):
        yield layers


def refresh(layers: Layers) -> None:
    subprocess.run([sys.executable, "-m", "pyunionfs", "refresh", layers.merged], check=True, timeout=60)


def change_behind_our_back(lower: Path) -> None:
    (lower / "dir/new").write_bytes(b"new")
    (lower / "top").write_bytes(b"new")
    os.unlink(lower / "dir/gone")
    (lower / "dir/file").write_bytes(b"newer and longer")
    os.unlink(lower / "becomes")
    build(lower, {"becomes": {"a": "directory"}})
    os.rename(lower / "dir/sub", lower / "x/moved")
    os.chmod(lower / "dir/kept", 0o600)


def test_a_refresh_shows_what_was_changed(layers: Layers) -> None:
    before = snapshot(layers.merged)
    assert not (layers.merged / "top").exists() and not (layers.merged / "dir/new").exists()
    with open(layers.merged / "dir/kept", "rb") as opened:
        change_behind_our_back(layers.lower[0])
        refresh(layers)
        assert snapshot(layers.merged) != before
        assert not diff(snapshot(layers.lower[0]), snapshot(layers.merged), names=("lower", "merged"))
        assert opened.read() == b"kept"
    (layers.merged / "becomes/b").write_bytes(b"and can be written to")
    assert sorted(os.listdir(layers.merged / "becomes")) == ["a", "b"]


def test_what_was_written_stays(layers: Layers) -> None:
    (layers.merged / "dir/file").write_bytes(b"mine")
    (layers.merged / "mine").write_bytes(b"mine")
    with open(layers.merged / "dir/sub/deep", "r+b", buffering=0) as opened:
        opened.write(b"still")
        change_behind_our_back(layers.lower[0])
        opened.write(b" written")
        refresh(layers)
    assert (layers.merged / "dir/file").read_bytes() == b"mine"
    assert (layers.merged / "mine").read_bytes() == b"mine"
    assert (layers.merged / "dir/sub/deep").read_bytes() == b"still written"  # in the upper directory by then
    assert (layers.merged / "dir/new").read_bytes() == b"new"


def test_a_lower_layer_that_changes_all_the_time_is_never_fatal(layers: Layers) -> None:
    """Any error is a fair answer while it changes; afterwards, all is well."""
    choices = random.Random(1)
    merged, lower = layers.merged, layers.lower[0]
    for _ in range(40):
        shutil.rmtree(lower / "dir", ignore_errors=True)
        shutil.rmtree(lower / "becomes", ignore_errors=True)
        if choices.random() < 0.7:
            build(lower, {"dir": {name: "x" * choices.randrange(9) for name in choices.sample("abcde", 3)}})
        for path in ("dir", "dir/a", "dir/b", "becomes", "dir/sub/deep"):
            for call in (
                lambda path=path: os.listdir(merged / path),
                lambda path=path: (merged / path).read_bytes(),
                lambda path=path: os.chmod(merged / path, 0o755),
                lambda path=path: os.unlink(merged / path),
                lambda path=path: (merged / path).write_bytes(b"mine"),
            ):
                if choices.random() < 0.3:
                    try:
                        call()
                    except OSError:
                        pass
        if choices.random() < 0.3:
            refresh(layers)
    refresh(layers)
    told = snapshot(merged)
    with mounts.ours(layers.with_upper(merged.parent / "other")):
        pass
    mounts.unmount(merged)
    with mounts.ours(layers) as again:
        assert not diff(told, snapshot(again), names=("before", "after a remount"))


def test_who_may_ask_for_it(layers: Layers, requires: Callable[..., None]) -> None:
    requires("other_users")
    asking = "import os; os.setuid(1000); os.getxattr('.', 'user.pyunionfs.refresh')"
    command = [sys.executable, "-c", asking]
    done = subprocess.run(command, cwd=layers.merged, capture_output=True, text=True, timeout=60, check=False)
    assert "No data available" in done.stderr
    elsewhere = [sys.executable, "-m", "pyunionfs", "refresh", "/"]
    done = subprocess.run(elsewhere, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "pyunionfs: / is not mounted by pyunionfs\n")
