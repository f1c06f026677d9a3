"""16 processes at once, random and seeded; then every witness must tell the same: the mount, a fresh union of
the layers, the kernel's overlay on them, and the processes themselves of what they alone wrote."""

import hashlib
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path

import mounts
import pytest
import workers
from daemons import descriptors, forget, resident
from mounts import Layers, Options
from processes import in_processes
from trees import Node, Symlink, build, diff, snapshot

from pyunionfs import Overlay, Paths

PROCESSES = 16
OPTIONS: dict[str, Options] = {
    "plain": mounts.PLAIN,
    "full": {**mounts.PLAIN, "redirect_dir": "on", "metacopy": "on", "index": "on"},
}

Seen = dict[bytes, tuple[object, ...]]


def tree(layer: int) -> dict[str | bytes, Node]:
    """Objects of each kind on the shared names, partly the same ones in two layers; files that have an owner."""
    shared: dict[str | bytes, Node] = {
        "x": {"a": "file" * 5000, "b": {"p": "below", f"only-in-{layer}": ""}, "c": Symlink("a"), "e": {}},
        "y": {"a": {"q": {}}, "d": "x" * 100_000, "f": Symlink("../x/b"), "only": {f"in-{layer}": ""}},
    }
    return {"shared": shared}


def private(number: int) -> dict[str | bytes, Node]:
    return {f"lower{name}": workers.lower_content(number, name) for name in range(workers.LOWER_FILES)}


def stress(where: Path, results: Path, steps: int, *, union: bool, kernel: bool = False) -> None:
    results.mkdir()

    def work(number: int) -> None:
        os.chdir(where)
        (results / str(number)).write_bytes(pickle.dumps(workers.run(number, steps, union=union, kernel=kernel)))

    in_processes(PROCESSES, work, seconds=1200)


def check_private(where: Path, results: Path) -> None:
    for number in range(PROCESSES):
        content = pickle.loads((results / str(number)).read_bytes())
        assert {path.name: path.read_bytes() for path in (where / f"private{number}").iterdir()} == content


def seen_by_path(root: Path) -> Seen:
    """What a mount shows."""
    found: Seen = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        data: object = None
        if stat.S_ISREG(status.st_mode):
            data = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            data = os.fsencode(os.readlink(path))
        names = sorted(os.listxattr(path, follow_symlinks=False))
        found[os.fsencode(path.relative_to(root))] = (
            *(status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_ino, status.st_mtime_ns),
            *(data, [(os.fsencode(name), os.getxattr(path, name, follow_symlinks=False)) for name in names]),
        )
    return found


def seen_in_process(layers: Layers, options: Options) -> Seen:
    """The same of a fresh union on the same layers, without a mount."""
    found: Seen = {}
    with Overlay(layers.lower, layers.upper, layers.work, options=options) as overlay:
        files = Paths(overlay)
        for path, _ in files.walk():
            with files._at(path) as attr:
                data: object = None
                if stat.S_ISREG(attr.mode):
                    data = hashlib.sha256(files.read_bytes(path)).hexdigest()
                elif stat.S_ISLNK(attr.mode):
                    data = files.readlink(path)
                names = sorted(overlay.listxattr(attr.ino))
                found[path] = (
                    *(attr.mode, attr.uid, attr.gid, attr.nlink, attr.st_ino, attr.mtime_ns),
                    *(data, [(name, overlay.getxattr(attr.ino, name)) for name in names]),
                )
    return found


@pytest.fixture
def steps(request: pytest.FixtureRequest) -> int:
    return 20_000 if request.config.getoption("--long") else 1300


@pytest.mark.timeout(1500, method="signal")
@pytest.mark.parametrize(("judge", "options"), [("native", "plain"), ("kernel", "plain"), ("kernel", "full")])
def test_the_table_of_errors_is_what_the_judges_give(
    layers: Layers, tmp_path: Path, steps: int, judge: str, options: str, requires: Callable[..., None]
) -> None:
    """An error that is missing from the table on a native directory is a wrong table, not a wrong union."""
    if judge == "kernel":
        requires("kernel_overlay")
    objects = {**tree(0), **{f"private{number}": private(number) for number in range(PROCESSES)}}
    build(layers.upper if judge == "native" else layers.lower[0], objects)
    with mounts.MOUNTERS[judge](layers, OPTIONS[options]) as where:
        kernel = judge == "kernel"
        stress(where, tmp_path / "results", steps * 2, union=kernel and options == "plain", kernel=kernel)
        check_private(where, tmp_path / "results")


@pytest.mark.slow
@pytest.mark.timeout(1800, method="signal")
@pytest.mark.parametrize("options", OPTIONS)
def test_random_operations_of_16_processes(
    tmp_path: Path, steps: int, our_mount: mounts.Mounter, options: str, requires: Callable[..., None]
) -> None:
    requires("drop_caches")
    layers = Layers.create(tmp_path, lowers=2)
    for number, lower in enumerate(layers.lower):
        build(lower, tree(number))
    for number in range(PROCESSES):
        build(layers.lower[number % 2], {f"private{number}": private(number)})
    before = [snapshot(lower, upper=True) for lower in layers.lower]
    with our_mount(layers, OPTIONS[options]) as merged:
        pid = mounts.daemon_of(merged)
        snapshot(merged)  # so that what any use needs is there
        memory, files = resident(pid), descriptors(pid)
        stress(merged, tmp_path / "results", steps, union=options == "plain")
        assert forget(lambda: descriptors(pid) <= files + 10 and resident(pid) < memory + (24 << 20))
        check_private(merged, tmp_path / "results")
        shown, shown_again = seen_by_path(merged), snapshot(merged)
    assert os.listdir(layers.work / "work") == []
    assert seen_in_process(layers, OPTIONS[options]) == shown
    assert [snapshot(lower, upper=True) for lower in layers.lower] == before
    requires("kernel_overlay")
    with mounts.kernel(layers, OPTIONS[options]) as merged:
        check_private(merged, tmp_path / "results")
        difference = diff(shown_again, snapshot(merged, ghosts=True), names=("ours", "kernel"))
        assert not difference, difference
