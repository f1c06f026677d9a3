"""A mount outlives its daemon: killed at any moment, another takes over, and programs see a pause.

Each program runs on a native directory too, undisturbed: the results must be the same.
"""

import errno
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mounts
import pytest
from mounts import Layers
from syscalls import RENAME_EXCHANGE, renameat2
from trees import Snapshot, build, diff, snapshot

from pyunionfs.verify.mounting import Options

FILES = 150
ENVIRONMENT = {
    **os.environ,
    **{f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    **{f"GIT_{who}_DATE": "2020-01-01T00:00:00Z" for who in ("AUTHOR", "COMMITTER")},
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
}


@pytest.fixture(params=[mounts.PLAIN, mounts.ALL], ids=["plain", "all"])
def merged(request: pytest.FixtureRequest, layers: Layers, requires: Callable[..., None]) -> Iterator[Path]:
    requires("pyunionfs")
    build(layers.lower[0], {"old": {f"{number:03}": f"{number}\n" * number for number in range(FILES)}})
    with mounts.devfuse(layers, request.param) as path:
        yield path


@contextmanager
def killing(merged: Path, pause: float) -> Iterator[list[int]]:
    """Kill the daemon again and again; yields the list of those that were killed."""
    killed: list[int] = []
    over = threading.Event()
    choices = random.Random(7)

    def kill() -> None:
        while not over.wait(pause * (0.5 + choices.random())):
            killed.append(mounts.daemon_of(merged))
            os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield killed
    finally:
        over.set()
        killer.join()
    assert killed
    assert len(set(killed)) == len(killed), "one was killed twice: nobody had taken over"


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def git(root: Path) -> object:
    run("git", "init", "-q", "-b", "main", cwd=root)
    for turn in range(2):
        for number in range(0, FILES, turn + 1):
            (root / f"{turn}-{number:03}").write_text(f"{turn} {number}\n" * 50)
        run("git", "add", "-A", cwd=root)
        run("git", "commit", "-qm", f"{turn}", cwd=root)
    for _ in range(2):
        run("git", "checkout", "-q", "HEAD~1", cwd=root)
        run("git", "checkout", "-q", "main", cwd=root)
    run("git", "fsck", "--strict", cwd=root)
    shutil.rmtree(root / ".git" / "logs")
    return run("git", "status", "--porcelain", cwd=root), run("git", "rev-parse", "HEAD", cwd=root)


def tar(root: Path) -> object:
    run("tar", "-cf", "old.tar", "old", cwd=root)
    for turn in range(3):
        (root / f"new{turn}").mkdir()
        run("tar", "-xf", "../old.tar", cwd=root / f"new{turn}")
    run("rm", "-r", "new1", cwd=root)
    run("mv", "new2/old", "moved", cwd=root)
    (root / "old.tar").unlink()
    return None


def sqlite(root: Path) -> object:
    """Transactions with a rollback journal, which is made, synced and removed each time."""
    connection = sqlite3.connect(root / "db")
    connection.execute("create table numbers (n integer primary key, text)")
    for turn in range(30):
        with connection:
            connection.executemany(
                "insert into numbers values (?, ?)", [(turn * 50 + n, "x" * n) for n in range(50)]
            )
    found = connection.execute("select count(*), sum(length(text)) from numbers").fetchone()
    checked = connection.execute("pragma integrity_check").fetchone()
    connection.close()
    return found, checked


def names(root: Path) -> object:
    """What a daemon could do twice, or not at all: names made, moved, exchanged and removed."""
    (root / "box").mkdir()
    for number in range(200):
        one, two = root / f"one{number}", root / "box" / f"two{number}"
        one.write_text(f"{number}")
        os.link(one, two)
        os.symlink(f"{number}", root / f"link{number}")
        os.rename(one, root / "moved")
        os.mkdir(root / f"dir{number}")
        renameat2(root / f"dir{number}", two, RENAME_EXCHANGE)
        os.rmdir(two) if number % 2 else os.rename(two, root / "box" / "last")
        os.setxattr(root / f"dir{number}", "user.number", b"%d" % number, os.XATTR_CREATE)
        with open(root / "log", "ab") as log:
            log.write(b"%d\n" % number)
    return (root / "log").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900, method="signal")
@pytest.mark.parametrize("program", [git, tar, sqlite, names])
def test_programs_see_a_pause(
    merged: Path, program: Callable[[Path], object], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if program is git and shutil.which("git") is None:
        pytest.skip("git is not installed")
    native = tmp_path / "native"
    shutil.copytree(merged / "old", native / "old", symlinks=True)
    expected = program(native)
    kills = 50 if request.config.getoption("--long") else 3
    with killing(merged, 0.25) as killed:
        while True:
            assert program(merged) == expected
            if len(killed) >= kills:
                break
            clear(merged)
    assert len(killed) >= kills
    assert not diff(timeless(native), timeless(merged), names=("native", "ours"))


def clear(merged: Path) -> None:
    for name in os.listdir(merged):
        path = merged / name
        if name != "old":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def timeless(root: Path) -> Snapshot:
    """A snapshot without times, and without git's own notes of them and of inode numbers."""
    seen = {name: entry for name, entry in snapshot(root).items() if not name.startswith(b".git/index")}
    return {name: replace(entry, mtime_ns=0) for name, entry in seen.items()}


def kill_now(merged: Path) -> None:
    os.kill(mounts.daemon_of(merged), signal.SIGKILL)


def test_the_ledger_of_another_daemon_is_compacted(merged: Path) -> None:
    """Which closes what it was mapped by, and nothing that has been opened since."""
    kill_now(merged)
    expected = {path: path.read_bytes() for path in (merged / "old").iterdir()}  # and the daemon keeps them open
    for turn in range(5000):  # a record or more each: it is compacted at a mebibyte
        path = merged / f"{turn:0200}"
        path.touch()
        path.unlink()
    for path, data in expected.items():
        with opened(path, os.O_RDONLY) as fd:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.read(fd, 1000) == data


def test_what_is_open_stays_open(merged: Path) -> None:
    """Also what has no name any more: of the upper layer, of a lower one, and a directory."""
    with (
        open(merged / "old" / "100", "r+b") as kept,
        open(merged / "old" / "101", "rb") as lower,
        open(merged / "new", "w+b", buffering=0) as upper,
        opened(merged, os.O_TMPFILE | os.O_RDWR) as unnamed,
    ):
        upper.write(b"one")
        os.unlink(merged / "new")
        os.unlink(merged / "old" / "101")
        os.mkdir(merged / "gone")
        with opened(merged / "gone", os.O_RDONLY) as gone:
            os.rmdir(merged / "gone")
            held = (kept.fileno(), lower.fileno(), upper.fileno(), unnamed, gone)
            numbers = [os.fstat(fd).st_ino for fd in held]
            kill_now(merged)
            assert [os.fstat(fd).st_ino for fd in held] == numbers
            assert [os.fstat(fd).st_nlink for fd in held] == [1, 0, 0, 0, 0]
            assert os.listdir(gone) == []
        upper.write(b"two")
        assert os.pread(upper.fileno(), 10, 0) == b"onetwo"
        assert lower.read() == b"101\n" * 101
        kept.seek(0, os.SEEK_END)
        kept.write(b"end")
        kept.flush()
        assert (merged / "old" / "100").read_bytes() == b"100\n" * 100 + b"end"
        os.write(unnamed, b"named")
        os.link(f"/proc/self/fd/{unnamed}", merged / "named", src_dir_fd=0, follow_symlinks=True)
        assert (merged / "named").read_bytes() == b"named"


def test_what_cannot_be_found_again_is_an_error_and_not_other_data(
    layers: Layers, requires: Callable[..., None]
) -> None:
    """A metacopy without a name: what it was copied from is known by its name alone."""
    requires("pyunionfs")
    build(layers.lower[0], {"file": "data"})
    with mounts.devfuse(layers, mounts.METACOPY) as merged:
        os.chmod(merged / "file", 0o600)
        with open(merged / "file", "rb", buffering=0) as file:
            os.unlink(merged / "file")
            kill_now(merged)
            with pytest.raises(OSError) as caught:
                file.read()
            assert caught.value.errno == errno.ESTALE
        assert os.listdir(merged) == []


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def test_a_listing_goes_on(merged: Path) -> None:
    """A scan that is under way finds each name once."""
    code = (
        "import os, sys\n"
        "scan = os.scandir(sys.argv[1])\n"
        "first = [next(scan).name for _ in range(10)]\n"
        "print('begun', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(sorted(first + [entry.name for entry in scan]))\n"
    )
    for number in range(2000):
        (merged / "old" / f"new{number}").touch()
    with subprocess.Popen(
        [sys.executable, "-c", code, merged / "old"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        kill_now(merged)
        told, _ = process.communicate("\n", timeout=60)
    assert told == f"{sorted(os.listdir(merged / 'old'))}\n"


def test_no_descriptor_is_left_of_the_dead(merged: Path) -> None:
    def use() -> int:
        for number in range(FILES):
            (merged / "old" / f"{number:03}").read_bytes()
        return len(os.listdir(f"/proc/{mounts.daemon_of(merged)}/fd"))

    counts = []
    for _ in range(4):
        counts.append(use())
        kill_now(merged)
        time.sleep(0.2)
    assert max(counts[1:]) < FILES < counts[0], counts  # the files are in the page cache: nothing is opened again


def test_a_daemon_that_cannot_live_ends_the_mount(layers: Layers, requires: Callable[..., None]) -> None:
    requires("pyunionfs")
    with mounts.devfuse(layers) as merged:
        started_by = json.loads(os.getxattr(merged, "user.pyunionfs"))["started_by"]
        for _ in range(200):
            for child in Path(f"/proc/{started_by}/task/{started_by}/children").read_text().split():
                try:
                    os.kill(int(child), signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if not os.path.exists(f"/proc/{started_by}/fd/0"):
                break
            time.sleep(0.01)
        assert merged not in mounts.mount_points()


def test_a_signal_ends_the_mount(layers: Layers, requires: Callable[..., None]) -> None:
    requires("pyunionfs")
    options: Options = mounts.PLAIN
    for who in ("pid", "started_by"):
        with mounts.devfuse(layers, options) as merged:
            pid = json.loads(os.getxattr(merged, "user.pyunionfs"))[who]
            os.kill(pid, signal.SIGTERM)
            for _ in range(200):
                if merged not in mounts.mount_points():
                    break
                time.sleep(0.05)
            assert merged not in mounts.mount_points()
