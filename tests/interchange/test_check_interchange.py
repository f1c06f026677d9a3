"""What the kernel and pyunionfs write, whatever the options, gives the check nothing to complain of; and what the
check repairs looks the same to both afterwards."""

import contextlib
import errno
import os
import random
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import changes
import mounts
import pytest
from mounts import Layers, Mounter, Options
from trees import File, HardLink, Whiteout, build, diff, snapshot

from pyunionfs import Overlay
from pyunionfs.check import PROBLEMS, Finding, Severity, check
from pyunionfs.overlay import workdir
from pyunionfs.verify import stacks

REDIRECT: Options = {**mounts.PLAIN, "redirect_dir": "on"}
METACOPY: Options = {**REDIRECT, "metacopy": "on", "index": "on"}
NFS_EXPORT: Options = {**REDIRECT, "index": "on", "nfs_export": "on"}

TREES = 8
USUAL = {"kept-whiteout", "needless-opaque", "orphan-index"}
"""Notes on what the kernel leaves behind in the normal course of things (orphans with nfs_export only)."""
WRITERS: dict[str, tuple[Mounter, Options]] = {
    "kernel": (mounts.kernel, mounts.PLAIN),
    "kernel, userxattr": (mounts.kernel, mounts.USERXATTR),
    "kernel, redirect_dir": (mounts.kernel, REDIRECT),
    "kernel, metacopy and index": (mounts.kernel, METACOPY),
    "kernel, nfs_export": (mounts.kernel, NFS_EXPORT),
    "ours": (mounts.ours, mounts.PLAIN),
    "ours, userxattr": (mounts.ours, mounts.USERXATTR),
    "ours, redirect_dir": (mounts.ours, REDIRECT),
    "ours, metacopy and index": (mounts.ours, METACOPY),
}


@pytest.fixture(params=WRITERS)
def writer(
    request: pytest.FixtureRequest, requires: Callable[..., None], tmp_path: Path
) -> tuple[Mounter, Options]:
    mounter, options = WRITERS[request.param]
    requires("kernel_overlay_userxattr" if options.get("userxattr") else "kernel_overlay", "handles", "other_users")
    if mounter is mounts.ours:
        requires("pyunionfs")
        probe = Layers.create(tmp_path / "probe")
        known = {name: value for name, value in options.items() if name != "uuid"}
        try:
            Overlay(probe.lower, probe.upper, probe.work, options=known).close()
        except OSError as error:
            pytest.skip(f"pyunionfs cannot do that: {error.strerror}")
    return mounter, options


def complaints(layers: Layers, options: Options) -> list[Finding]:
    """The findings that are out of the ordinary."""
    report = check(layers.upper, layers.lower, layers.work, userxattr=bool(options.get("userxattr")))
    assert report.objects
    assert not report.notes
    assert {PROBLEMS[name].severity for name in USUAL} == {Severity.INFO}
    return [item for item in report.findings if item.problem.name not in USUAL]


def move_about(merged: Path) -> None:
    """What only redirects and metacopies allow: directories that move, with files that were not copied."""
    files, tree = merged / "files", merged / "tree"
    for name in ("file3", "file4", "file6"):
        os.chmod(files / name, 0o611)
    with contextlib.suppress(OSError):  # EXDEV without redirect_dir
        os.rename(tree / "a" / "b", merged / "b moved")
    if not (merged / "b moved").exists():
        return
    os.rename(tree, merged / "tree moved")
    os.rename(merged / "tree moved" / "a", files / "a")
    os.rename(merged / "b moved", merged / "tree moved" / "b moved twice")
    os.mkdir(tree)
    os.rename(files, tree / "files")
    os.rename(tree / "files" / "file3", merged / "file3 moved")
    os.link(tree / "files" / "file6", merged / "file6 linked")
    os.chmod(merged / "tree moved" / "b moved twice" / "c" / "deep", 0o640)


def touch_all(merged: Path) -> None:
    """A copy-up of everything that there is, and something new in each directory."""
    for path in sorted(merged.rglob("*")):
        if not path.is_symlink():
            os.chmod(path, 0o700)
        if path.is_dir() and not path.is_symlink():
            (path / "one more").write_bytes(b"")


def test_scripted_changes_leave_nothing_to_complain_of(tmp_path: Path, writer: tuple[Mounter, Options]) -> None:
    mounter, options = writer
    layers = Layers.create(tmp_path, lowers=2)
    build(layers.lower[0], changes.TOP)
    build(layers.lower[1], changes.BOTTOM)
    with mounter(layers, options) as merged:
        changes.change(merged)
        move_about(merged)
    assert complaints(layers, options) == []
    over = Layers((layers.upper, *layers.lower), tmp_path / "upper2", tmp_path / "work2", layers.merged)
    for path in (over.upper, over.work):
        path.mkdir()
    for change in (lambda merged: os.rename(merged / "moved", merged / "again/moved"), touch_all):
        with mounter(over, options) as merged, contextlib.suppress(OSError):  # EXDEV
            change(merged)
        assert complaints(over, options) == []


@pytest.mark.parametrize("seed", range(3))
def test_random_changes_leave_nothing_to_complain_of(
    tmp_path: Path, writer: tuple[Mounter, Options], seed: int
) -> None:
    mounter, options = writer
    trees = range(seed * TREES, (seed + 1) * TREES)
    layers = Layers.create(tmp_path, lowers=stacks.LAYERS)
    shape = stacks.Shape("user.overlay." if options.get("userxattr") else "trusted.overlay.")
    for tree in trees:
        for lower, directory in zip(layers.lower, stacks.layers_of(str(tree), shape), strict=True):
            build(lower / str(tree), {"r": directory})
    told = []
    for turn in range(2):
        with mounter(layers, options) as merged:
            for tree in trees:
                told += changes.change_at_random(merged / str(tree), random.Random(tree * 2 + turn), 60)
        assert complaints(layers, options) == [], "\n".join(told)


@pytest.mark.parametrize("seed", range(3))
def test_a_repair_leaves_the_view_as_it_is(tmp_path: Path, requires: Callable[..., None], seed: int) -> None:
    """Stale whiteouts of all kinds in an upper directory of many changes, the index and the work directory."""
    requires("kernel_overlay", "handles", "other_users", "devices")
    choices = random.Random(seed)
    layers = Layers.create(tmp_path / "a", lowers=stacks.LAYERS)
    trees = stacks.layers_of(str(seed), stacks.Shape("trusted.overlay."))
    for number, (lower, directory) in enumerate(zip(layers.lower, trees, strict=True)):
        build(lower, {"r": directory})
        build(lower / "links", {"one": f"in {number}", "two": HardLink("one"), "three": HardLink("one")})
    with mounts.kernel(layers, METACOPY) as merged:
        changes.change_at_random(merged, choices, 100)
        os.chmod(merged / "links" / "one", 0o600)
        os.unlink(merged / "links" / "one")
    _damage(layers, choices)
    repaired = layers.with_upper(tmp_path / "b")
    for path in (repaired.upper, repaired.work):
        path.rmdir()
    subprocess.run(["cp", "-a", layers.upper, layers.work, tmp_path / "b"], check=True)
    os.removexattr(repaired.work / "index", "trusted.overlay.upper")  # a copy is another directory
    report = check(repaired.upper, repaired.lower, repaired.work, repair=True)
    names = {item.problem.name for item in report.findings if item.repaired}
    assert names >= {"stale-whiteout", "pure-whiteout", "leftover", "kept-whiteout", "missing-impure"}, names
    again = check(repaired.upper, repaired.lower, repaired.work, repair=True)
    assert not any(item.repaired for item in again.findings)
    views = []
    for each in (layers, repaired):
        with mounts.kernel(each, METACOPY) as merged:
            views.append(snapshot(merged, ghosts=True))
    assert not diff(*views, names=("damaged", "repaired"))


def _damage(layers: Layers, choices: random.Random) -> None:
    """Whiteouts where nothing is, in a third of all directories, and leftovers."""
    for path in [layers.upper, *sorted(layers.upper.rglob("*"))]:
        if path.is_dir() and not path.is_symlink():
            times = path.stat()
            if choices.random() < 0.3:
                os.mknod(path / "nothing was ever here", 0o020000, 0)
            if "trusted.overlay.impure" in os.listxattr(path):
                os.removexattr(path, "trusted.overlay.impure")
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    build(layers.upper / "new directory", {"whiteout": Whiteout()})
    for name in ("work/#1", "index/#2"):  # the kernel mounts read-only over what is deeper
        build(layers.work / name, {"file": File("x", 0)})


@pytest.mark.parametrize("mounter", ["kernel", "ours"])
def test_what_is_mounted_is_only_looked_at(
    tmp_path: Path, requires: Callable[..., None], mounter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requires("kernel_overlay", "pyunionfs")
    monkeypatch.setattr(workdir, "LOCK_WAIT", 0.1)
    root = tmp_path / "a, b:\nc"
    layers = Layers.create(tmp_path if mounter == "kernel" else root)
    build(layers.lower[0], {"file": "x"})
    with WRITERS[mounter][0](layers) as merged:
        (merged / "file").unlink()
        report = check(layers.upper, layers.lower, layers.work)
        assert not report.bad
        assert "in use by" in report.notes[0]
        os.mknod(layers.upper / "stale", stat.S_IFCHR)
        with pytest.raises(OSError, match="is in use by") as refused:
            check(layers.upper, layers.lower, layers.work, repair=True)
        assert refused.value.errno == errno.EBUSY
        assert (layers.upper / "stale").exists() or mounter == "ours"
    assert [item.repaired for item in check(layers.upper, layers.lower, repair=True).findings] == [True]
