"""Layers whose owner changes them while the union is used: directories become symlinks, files become fifos.

What lies outside of the layers must be neither read nor changed through them, and nobody may have to wait.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import mounts
import pytest
import syscalls
from daemons import descriptors
from mounts import Layers, Mounter
from threads import repeating
from trees import Snapshot, build, snapshot

from pyunionfs import Overlay, Paths

SECRET = "secret of the machine"


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A tree of the same names as the layer's, which nothing may touch."""
    path = tmp_path / "outside"
    build(path, {"file": SECRET, "sub": {"file": SECRET, "deep": {"file": SECRET}}})
    before = _state(path)
    yield path
    assert _state(path) == before, "something outside of the layers was changed"


def _state(path: Path) -> tuple[Snapshot, list[int]]:
    return snapshot(path), [found.lstat().st_ctime_ns for found in sorted(path.rglob("*"))]


@contextmanager
def swapping(directory: Path, link: Path) -> Iterator[None]:
    """Exchange a directory and a symlink again and again, until the end of the ``with``."""

    def swap() -> None:
        syscalls.renameat2(directory, link, syscalls.RENAME_EXCHANGE)
        time.sleep(0)

    with repeating(swap):
        yield


def prepare(root: Path, outside: Path) -> tuple[Path, Path]:
    build(root, {"dir": {"file": "layer", "sub": {"file": "layer", "deep": {"file": "layer"}}}})
    (root / "link").symlink_to(outside)
    return root / "dir", root / "link"


def use(files: Paths, number: int) -> None:
    """All sorts of things below the directory that is swapped; what fails, fails."""
    for path in ("dir/file", "dir/sub/file", "dir/sub/deep/file"):
        with suppress(OSError):
            assert SECRET.encode() not in files.read_bytes(path)
    actions: list[Callable[[], object]] = [
        lambda: files.listdir("dir/sub"),
        lambda: files.write_bytes("dir/sub/file", b"changed"),
        lambda: files.write_bytes(f"dir/new{number}", b"new"),
        lambda: files.chmod("dir/sub/deep/file", 0o600),
        lambda: files.truncate("dir/file", 3),
        lambda: files.mkdir(f"dir/sub/made{number}"),
        lambda: files.unlink("dir/sub/deep/file"),
        lambda: files.rmdir("dir/sub/deep"),
        lambda: files.rename("dir/file", f"dir/sub/moved{number}"),
        lambda: files.symlink("x", f"dir/symlink{number}"),
    ]
    with suppress(OSError):
        actions[number % len(actions)]()


@pytest.mark.parametrize("which", ["lower", "upper"])
def test_no_call_follows_a_directory_that_became_a_symlink(layers: Layers, outside: Path, which: str) -> None:
    """In process, thousands of calls; now and then on a fresh union, which holds no directory open yet."""
    rounds = 60
    for attempt in range(3):
        fresh = layers.with_upper(layers.upper.parent / f"attempt{attempt}")
        lower = layers.upper.parent / f"lower-of-{attempt}"
        swapped = prepare(lower if which == "lower" else fresh.upper, outside)
        lower.mkdir(exist_ok=True)
        with swapping(*swapped):
            for number in range(rounds):
                with Overlay([lower], fresh.upper, fresh.work) as overlay:
                    for again in range(4):
                        use(Paths(overlay), number + again)


@pytest.mark.parametrize("which", ["lower", "upper"])
def test_a_mount_shows_nothing_from_behind_a_symlink_that_was_a_directory(
    layers: Layers, our_mount: Mounter, outside: Path, requires: Callable[..., None], which: str
) -> None:
    """Through FUSE: a symlink that the kernel sees is its reader's to follow, so only ``dir`` itself is used."""
    requires("drop_caches")
    swapped = prepare(layers.lower[0] if which == "lower" else layers.upper, outside)
    build(layers.lower[0], {"stays": "there"})
    with our_mount(layers) as merged, swapping(*swapped):
        for number in range(150):
            if number % 10 == 0:
                Path("/proc/sys/vm/drop_caches").write_text("2\n")
            with suppress(OSError):
                fd = os.open(merged / "dir", os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    for name in ("file", "sub/file"):
                        with suppress(OSError):
                            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
                            try:
                                assert SECRET.encode() not in os.read(file, 100)
                            finally:
                                os.close(file)
                    os.close(os.open(f"new{number}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
                finally:
                    os.close(fd)
        assert (merged / "stays").read_text() == "there"


def test_a_file_that_became_a_fifo_makes_nobody_else_wait(layers: Layers, our_mount: Mounter) -> None:
    """Who waits in a request cannot be killed: first a writer of the fifo lets go the daemon, until the unmount."""
    fifo = layers.lower[0] / "file"
    build(layers.lower[0], {"file": "content", "other": "still there"})
    with ExitStack() as stack:
        late = stack.enter_context(ExitStack())  # after the unmount
        merged = stack.enter_context(our_mount(layers))
        assert (merged / "file").stat().st_size == 7
        fifo.unlink()
        os.mkfifo(fifo)
        readers = [stack.enter_context(reading(merged / name)) for name in ("file", "other")]
        stack.callback(lambda: late.callback(os.close, os.open(fifo, os.O_RDWR | os.O_NONBLOCK)))
        assert readers[1].communicate(timeout=3)[0] == b"still there"
        assert readers[0].communicate(timeout=3)[0] == b""
        assert readers[0].returncode != 0


@contextmanager
def reading(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as reader:
        try:
            yield reader
        finally:
            reader.kill()


def test_a_file_that_became_a_device_is_not_opened(
    layers: Layers, our_mount: Mounter, requires: Callable[..., None]
) -> None:
    requires("devices")
    build(layers.lower[0], {"file": "content", "other": "still there"})
    with our_mount(layers) as merged:
        assert (merged / "file").stat().st_size == 7
        before = descriptors(mounts.daemon_of(merged))
        (layers.lower[0] / "file").unlink()
        os.mknod(layers.lower[0] / "file", 0o20644, os.makedev(1, 5))
        with suppress(OSError):
            assert (merged / "file").read_bytes() != bytes(7), "the daemon has read /dev/zero"
        assert (merged / "other").read_text() == "still there"
        assert descriptors(mounts.daemon_of(merged)) <= before + 1
