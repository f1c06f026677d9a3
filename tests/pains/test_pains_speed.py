"""Slowness that can be counted, whatever the machine: requests, listings, probes, bytes copied."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mounts
import pytest
from daemons import written
from mounts import Layers, Mounter, Options
from sources import source
from trees import build

from pyunionfs import Overlay, Paths
from pyunionfs.views.diff import diff
from pyunionfs.views.union import Union

Counter = Callable[[str], list[object]]


@pytest.fixture
def calls_of(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """``calls_of("scandir")``: a list that grows with each call of the function of ``os``."""

    def watch(name: str) -> list[object]:
        calls: list[object] = []
        real = getattr(os, name)

        def counted(*arguments: object, **keywords: object) -> object:
            calls.append(arguments)
            return real(*arguments, **keywords)

        monkeypatch.setattr(os, name, counted)
        return calls

    return watch


@source("fuse-overlayfs 390")
def test_dd_is_served_in_large_pieces(layers: Layers, our_mount: Mounter) -> None:
    """64 MiB in requests of 128 KiB or more: one piece of data and one answer for each."""
    with our_mount(layers) as merged:
        pid = mounts.daemon_of(merged)
        before = written(pid)
        command = ["dd", "if=/dev/zero", f"of={merged / 'file'}", "bs=1M", "count=64", "status=none"]
        subprocess.run(command, check=True)
        assert (merged / "file").stat().st_size == 64 << 20
        assert written(pid) - before < 2 * (64 << 20) // (128 << 10) + 100


@source("toolbox 513")
def test_removing_thousands_of_files_lists_their_directory_but_once(layers: Layers, calls_of: Counter) -> None:
    build(layers.lower[0], {"tmp": {f"log{number}": "x" for number in range(1000)}})
    with Overlay(layers.lower, layers.upper, layers.work) as overlay:
        files = Paths(overlay)
        for number in range(1000):
            files.write_bytes(f"tmp/new{number}", b"")
        listings = calls_of("scandir")
        for name in files.listdir("tmp"):
            files.unlink(b"tmp/" + name)
        assert len(listings) <= 3  # of the layer above, of the one below
        files.rmdir("tmp")
        assert len(listings) <= 10
        assert files.listdir() == []


@source("moby 47399", "containerd 6310")
def test_chown_copies_no_data(layers: Layers, union: Mounter, with_options: Callable[..., Options]) -> None:
    options = with_options(metacopy="on", redirect_dir="on")
    build(layers.lower[0], {"large": b"x" * (8 << 20)})
    with union(layers, options) as merged:
        os.chown(merged / "large", 1, 2)
        assert (layers.upper / "large").stat().st_blocks * 512 < 1 << 16
        assert (merged / "large").read_bytes() == b"x" * (8 << 20)
    with union(layers, options) as merged:
        assert (merged / "large").stat().st_uid == 1
        with (merged / "large").open("ab") as file:
            file.write(b"y")
        assert (merged / "large").read_bytes() == b"x" * (8 << 20) + b"y"


@source("buildah 2411")
def test_a_diff_reads_what_the_upper_directory_has_and_no_more(layers: Layers, calls_of: Counter) -> None:
    build(layers.lower[0], {f"dir{number}": {"sub": {"file": "x"}} for number in range(200)})
    with Overlay(layers.lower, layers.upper, layers.work) as overlay:
        files = Paths(overlay)
        files.write_bytes("dir7/sub/new", b"")
        files.unlink("dir9/sub/file")
    listings = calls_of("scandir")
    changes = diff(Union([str(path) for path in layers.lower], str(layers.upper)))
    assert [tuple(change) for change in changes] == [
        ("/dir7", "C"),
        ("/dir7/sub", "C"),
        ("/dir7/sub/new", "A"),
        ("/dir9", "C"),
        ("/dir9/sub", "C"),
        ("/dir9/sub/file", "D"),
    ]
    assert len(listings) < 20  # and not 401


@source("ratarmount 71")
def test_a_lookup_probes_the_layers_that_have_the_directory(tmp_path: Path, calls_of: Counter) -> None:
    """Of 100 layers, each with a directory of its own: one has the file, and one is asked for it."""
    layers = Layers.create(tmp_path, lowers=100)
    for number, lower in enumerate(layers.lower):
        build(lower, {f"dir{number}": {f"file{name}": "x" for name in range(10)}})
    with Overlay(layers.lower) as overlay:
        files = Paths(overlay)
        assert files.exists("dir50")
        with files._at("dir50"):  # held, as a kernel holds the directories of a path in use
            probes = calls_of("stat")
            for name in range(10):
                assert files.exists(f"dir50/file{name}")
            assert len(probes) <= 20
            assert not files.exists("dir50/absent")
            assert len(probes) <= 22


@source("ai-bwrap 8")
def test_a_summary_tells_of_every_deletion(layers: Layers) -> None:
    """However many additions come before it."""
    build(layers.lower[0], {f"old{number:04}": "x" for number in range(1000)})
    with Overlay(layers.lower, layers.upper, layers.work) as overlay:
        files = Paths(overlay)
        for number in range(1000):
            files.write_bytes(f"new{number:04}", b"")
            files.unlink(f"old{number:04}")
    union = Union([str(path) for path in layers.lower], str(layers.upper))
    assert [change.path for change in diff(union) if change.kind == "D"] == [f"/old{n:04}" for n in range(1000)]
    assert len(diff(union)) == 2000


@source("fuse-overlayfs 320", "fuse-overlayfs 298", "fuse-overlayfs 190")
def test_changes_of_a_lower_layer_are_seen_after_a_refresh(layers: Layers, our_mount: Mounter) -> None:
    build(layers.lower[0], {"foo": "Test", "gone": "x", "dir": {"a": "1"}})
    with our_mount(layers) as merged:
        assert (merged / "foo").read_text() == "Test"
        assert sorted(os.listdir(merged / "dir")) == ["a"]
        (layers.lower[0] / "foo").write_text("Testing")
        (layers.lower[0] / "bar").write_text("new")
        (layers.lower[0] / "dir/b").write_text("2")
        (layers.lower[0] / "gone").unlink()
        subprocess.run([sys.executable, "-m", "pyunionfs", "refresh", merged], check=True)
        assert (merged / "foo").read_text() == "Testing"
        assert (merged / "bar").read_text() == "new"
        assert sorted(os.listdir(merged / "dir")) == ["a", "b"]
        assert not (merged / "gone").exists()
