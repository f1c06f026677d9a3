"""The daemon forgets what the kernel forgets: memory and descriptors come back."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mounts
import pytest
from daemons import descriptors, forget, resident
from mounts import Layers, Mounter

DIRECTORIES = 100


@pytest.fixture(scope="module")
def files(request: pytest.FixtureRequest) -> int:
    """In each directory: 100,000 in all, or in the long profile 1,000,000."""
    return 10_000 if request.config.getoption("--long") else 1000


@pytest.fixture(scope="module")
def large_lower(tmp_path_factory: pytest.TempPathFactory, files: int) -> Iterator[Path]:
    lower = tmp_path_factory.mktemp("large")
    for directory in range(DIRECTORIES):
        where = lower / f"dir{directory:03}"
        where.mkdir()
        for number in range(files):
            os.mknod(where / f"file{number:04}")
    yield lower
    shutil.rmtree(lower)


def walk(path: Path) -> int:
    count = 0
    for _, directories, files in os.walk(path):
        count += len(directories) + len(files)
    return count


@pytest.mark.slow
@pytest.mark.timeout(3600, method="signal")
def test_what_the_kernel_forgets_the_daemon_forgets(
    large_lower: Path, files: int, tmp_path: Path, our_mount: Mounter, requires: Callable[..., None]
) -> None:
    requires("drop_caches")
    made = Layers.create(tmp_path)
    layers = Layers((large_lower,), made.upper, made.work, made.merged)
    with our_mount(layers) as merged:
        pid = mounts.daemon_of(merged)
        start, descriptors_at_start = resident(pid), descriptors(pid)
        after = []
        for _ in range(3):
            assert walk(merged) == DIRECTORIES * (files + 1)
            full = resident(pid)
            assert full - start < 1000 * DIRECTORIES * files  # bytes: a million files stay under 1 GiB
            assert descriptors(pid) < 2000
            # Not all: an allocator keeps some of it for the next time.
            assert forget(lambda full=full: resident(pid) - start < 0.6 * (full - start))
            assert forget(lambda: descriptors(pid) <= descriptors_at_start + 10)
            after.append(resident(pid))
        assert after[-1] - after[0] < 16 << 20  # no growth from one walk to the next


def test_descriptors_do_not_grow_with_open_and_deleted_files(tmp_path: Path, our_mount: Mounter) -> None:
    layers = Layers.create(tmp_path)
    for number in range(50):
        (layers.lower[0] / f"file{number}").write_bytes(b"x" * 1000)
    with our_mount(layers) as merged:
        pid = mounts.daemon_of(merged)

        def rounds(count: int) -> None:
            for number in range(count):
                with open(merged / "new", "x+b") as file:
                    os.unlink(merged / "new")
                    file.write(b"x")
                os.mkdir(merged / "dir")
                os.rmdir(merged / "dir")
                with open(merged / f"file{number % 50}", "ab") as file:
                    file.write(b"y")

        rounds(100)
        before = descriptors(pid)
        rounds(500)
        assert descriptors(pid) <= before + 10
        assert not [name for name in os.listdir(layers.work / "work") if not name.startswith("#")]


@pytest.mark.timeout(120, method="signal")
def test_the_limit_of_descriptors_is_a_budget(tmp_path: Path, requires: Callable[..., None]) -> None:
    """More directories and files than RLIMIT_NOFILE lets the daemon have, all of them in use.

    The hard limit, for a daemon raises its soft one to that.
    """
    requires("pyunionfs")
    layers = Layers.create(tmp_path)
    for number in range(600):
        (layers.lower[0] / f"dir{number}").mkdir()
        (layers.lower[0] / f"dir{number}" / "file").write_bytes(b"%d" % number)
    command = [sys.executable, "-m", "pyunionfs"]
    mount = ["mount", "--lower", layers.lower[0], "--upper", layers.upper, "--work", layers.work, layers.merged]
    subprocess.run(["prlimit", "--nofile=256", *command, *mount], check=True)
    try:
        assert resource.prlimit(mounts.daemon_of(layers.merged), resource.RLIMIT_NOFILE) == (256, 256)
        files = [open(layers.merged / f"dir{number}" / "file", "r+b") for number in range(600)]  # noqa: SIM115
        for number, file in enumerate(files):
            assert file.read() == b"%d" % number
            file.write(b"+")
            file.flush()
        for number, file in enumerate(files):
            assert os.pread(file.fileno(), 10, 0) == b"%d+" % number
            file.close()
        assert len(os.listdir(layers.merged)) == 600
    finally:
        subprocess.run([*command, "umount", layers.merged], check=True)
