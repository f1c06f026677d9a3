"""Called as fuse-overlayfs, or as a helper of mount(8): the argument forms, and what a caller waits for."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mounts
import pytest
from mounts import Layers
from trees import build

PROGRAM = Path(sys.executable).with_name("pyunionfs")


@pytest.fixture
def directory(layers: Layers, requires: Callable[..., None]) -> Iterator[Path]:
    """Where the caller stands: with layers, links to them and a mount point."""
    requires("pyunionfs")
    top = layers.merged.parent
    (top / "base").mkdir()
    build(layers.lower[0], {"file": "top"})
    build(top / "base", {"file": "base", "below": "base"})
    (top / "l").mkdir()
    (top / "l/A").symlink_to("../lower0")
    (top / "l/B").symlink_to("../base")
    for name in ("fuse-overlayfs", "mount.fuse.pyunionfs", "mount.pyunionfs", "pyunionfs"):
        (top / name).symlink_to(PROGRAM)
    yield top
    while layers.merged in mounts.mount_points():
        subprocess.run(["umount", layers.merged], check=True)


def call(directory: Path, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [directory / words[0], *words[1:]], cwd=directory, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == status, done.stderr
    return done


LAYERS = "lowerdir=l/A:l/B,upperdir=upper,workdir=work"


@pytest.mark.parametrize(
    ("words", "source"),
    [
        (["fuse-overlayfs", "-o", f"{LAYERS},", "merged"], "fuse-overlayfs"),
        (["fuse-overlayfs", "-o", f"{LAYERS},,volatile", "merged"], "fuse-overlayfs"),
        (["fuse-overlayfs", f"-o{LAYERS}", "-o", "fsync=0,threaded=1", "merged"], "fuse-overlayfs"),
        (["fuse-overlayfs", "-o", f"{LAYERS},private", "merged"], "fuse-overlayfs"),
        (["pyunionfs", "overlay", "merged", "-o", f"workdir=work,{LAYERS},dev,suid"], "overlay"),
        (["mount.pyunionfs", "overlay", "merged", "-o", f"rw,{LAYERS}"], "overlay"),
        (
            ["mount.fuse.pyunionfs", "none", "merged", "-sn", "-o", f"defaults,_netdev,x-a.b=1,{LAYERS}"],
            "none",
        ),
    ],
    ids=range(7),
)
def test_each_form_of_arguments(directory: Path, words: list[str], source: str) -> None:
    assert call(directory, *words).stderr == ""
    merged = directory / "merged"
    assert (merged / "file").read_text() == "top"
    (merged / "below").write_text("changed")
    assert (directory / "upper/below").read_text() == "changed"
    mounted = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    assert [(row[0], row[2]) for row in mounted if row[1] == str(merged)] == [(source, "fuse.pyunionfs")]


def test_without_an_upper_it_is_read_only(directory: Path) -> None:
    call(directory, "fuse-overlayfs", "-o", "lowerdir=l/A:l/B", "merged")
    with pytest.raises(OSError, match="Read-only"):
        (directory / "merged/new").touch()


def test_what_it_does_not_know_it_says_and_ignores(directory: Path) -> None:
    told = call(directory, "fuse-overlayfs", "-o", f"{LAYERS},nonsense=1,,other", "merged").stderr
    assert told == "unknown argument ignored: nonsense=1\nunknown argument ignored: other\n"


def test_volatile_mounts_follow_each_other(directory: Path) -> None:
    """As buildah makes them; the kernel's mark would refuse the second."""
    for _ in range(3):
        call(directory, "fuse-overlayfs", "-o", f"{LAYERS},,volatile", "merged")
        subprocess.run(["fusermount3", "-u", directory / "merged"], check=True)
    assert not (directory / "work/work/incompat").exists()


def test_a_predecessor_may_still_be_dying(directory: Path) -> None:
    """dockerd mounts, unmounts and mounts again within milliseconds."""
    for number in range(5):
        call(directory, "fuse-overlayfs", "-o", LAYERS, "merged")
        (directory / "merged" / f"{number}").touch()
        subprocess.run(["umount", "-l", directory / "merged"], check=True)
    assert sorted(os.listdir(directory / "upper")) == [str(number) for number in range(5)]


def test_nothing_of_the_callers_stays_open(directory: Path) -> None:
    """Callers wait for the end of stdout and stderr."""
    begun = time.monotonic()
    call(directory, "fuse-overlayfs", "-o", LAYERS, "merged")
    assert time.monotonic() - begun < 30  # capture_output has waited for the end of both
    for pid in mounts.processes_of(directory / "merged"):
        assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "lowerdir=missing", "merged"], "lower layer {top}/missing: No such file or directory"),
        (["-o", "lowerdir=base", "missing"], "mount point missing is not a directory"),
        (["-o", "upperdir=upper", "merged"], "no lowerdir specified"),
        (["-o", "lowerdir=base"], "no mountpoint specified"),
        (["-o", "lowerdir=base", "a", "b", "c"], "more than a source and a mountpoint"),
        (["-o"], "-o needs an argument"),
        (["--nonsense"], "unknown argument --nonsense"),
        (["-o", "lowerdir=base,redirect_dir=maybe", "merged"], "mount option redirect_dir=maybe: not one of"),
    ],
)
def test_what_is_wrong_is_one_line(directory: Path, words: list[str], said: str) -> None:
    told = call(directory, "fuse-overlayfs", *words, status=1).stderr
    assert told.startswith(f"fuse-overlayfs: {said.format(top=directory)}")
    assert told.count("\n") == 1


def test_it_tells_its_version(directory: Path) -> None:
    assert call(directory, "fuse-overlayfs", "--version").stdout.startswith("fuse-overlayfs: version ")
    assert "usage: fuse-overlayfs" in call(directory, "fuse-overlayfs", "--help").stdout


def test_mounting_loads_neither_click_nor_pyfuse3(directory: Path) -> None:
    """A container waits for it."""
    code = (
        "import sys; from pyunionfs import mount_helper; sys.argv[0] = 'fuse-overlayfs'; "
        "import pyunionfs.transport.devfuse; "
        "print({'click', 'rich', 'pyfuse3', 'trio', 'hypothesis', 'zstandard'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_helpers_are_installed_where_they_are_wanted(directory: Path) -> None:
    prefix = directory / "prefix"
    told = call(directory, "pyunionfs", "install-helpers", "--prefix", str(prefix)).stdout
    assert f'mount_program = "{prefix}/bin/fuse-overlayfs"' in told
    for name in ("bin/fuse-overlayfs", "sbin/mount.pyunionfs", "sbin/mount.fuse.pyunionfs"):
        assert os.readlink(prefix / name) == str(PROGRAM)
    call(directory, "pyunionfs", "install-helpers", "--prefix", str(prefix))
    (prefix / "bin/fuse-overlayfs").unlink()
    (prefix / "bin/fuse-overlayfs").write_text("another's")
    refused = call(directory, "pyunionfs", "install-helpers", "--prefix", str(prefix), status=1)
    assert "is not ours" in refused.stderr
    assert (prefix / "bin/fuse-overlayfs").read_text() == "another's"
    call(directory, "pyunionfs", "install-helpers", "--prefix", str(prefix), "--force")
    assert os.readlink(prefix / "bin/fuse-overlayfs") == str(PROGRAM)
