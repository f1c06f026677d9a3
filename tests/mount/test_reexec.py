"""``pyunionfs reexec``: a mount is moved to other code, and nobody who uses it notices more than a pause."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mounts
import pytest
from mounts import Layers
from trees import build, diff, snapshot

import pyunionfs


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the package, to be changed."""
    package = tmp_path / "code" / "pyunionfs"
    shutil.copytree(Path(pyunionfs.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    return package


@pytest.fixture
def ours(code: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command with the copy."""

    def run(*arguments: str | Path, user: int | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(code.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pyunionfs", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, user=user)

    return run


Ours = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def merged(layers: Layers, ours: Ours, requires: Callable[..., None]) -> Iterator[Path]:
    requires("pyunionfs")
    build(layers.lower[0], {"file": "lower", "held": "held", "dir": {"below": "x"}})
    words = ["--lower", layers.lower[0], "--upper", layers.upper, "--work", layers.work, layers.merged]
    done = ours(
        "mount", "-o", "index=on,redirect_dir=on,volatile,channel=poll", "--log", layers.work.parent / "log", *words
    )
    assert done.returncode == 0, done.stderr
    try:
        yield layers.merged
    finally:
        mounts.unmount(layers.merged)


def told(merged: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(os.getxattr(merged, "user.pyunionfs"))
    return found


def test_the_new_code_serves_what_is_open(merged: Path, code: Path, ours: Ours) -> None:
    before = told(merged)
    with open(merged / "held", "r+b", buffering=0) as held, open(merged / "new", "w+b", buffering=0) as new:
        new.write(b"one")
        os.unlink(merged / "new")
        os.rename(merged / "dir", merged / "moved")
        (code / "_version.py").write_text('__version__ = "99.1"\n')
        done = ours("reexec", merged)
        assert (done.returncode, done.stderr) == (0, "")
        after = told(merged)
        assert done.stdout == f"{merged}: daemon {before['pid']} ({before['version']}) -> {after['pid']} (99.1)\n"
        assert after["started_by"] == before["started_by"]
        new.write(b"two")
        assert os.pread(new.fileno(), 9, 0) == b"onetwo"
        assert os.fstat(new.fileno()).st_nlink == 0
        held.write(b"HELD")
        assert held.seek(0) == 0
        assert held.read() == b"HELD"
    assert (merged / "moved" / "below").read_text() == "x"
    assert "redirect /dir to dir" in (merged.parent / "log").read_text()
    (merged / "file").unlink()
    assert "whiteout /file" in (merged.parent / "log").read_text()


def test_it_goes_on_and_on(merged: Path, ours: Ours) -> None:
    """Also after a daemon that was killed; and no descriptor is left of those before."""
    counts, pids = [], {told(merged)["pid"]}
    for turn in range(4):
        if turn == 2:
            os.kill(told(merged)["pid"], 9)
        assert ours("reexec", merged).returncode == 0
        assert (merged / "held").read_text() == "held"
        pid = told(merged)["pid"]
        counts.append(len(os.listdir(f"/proc/{pid}/fd")))
        assert pid not in pids
        pids.add(pid)
    assert max(counts) == counts[0], counts


def test_a_workload_notices_nothing(merged: Path, tmp_path: Path, ours: Ours) -> None:
    """Names made, moved and removed while the code changes again and again; the same on a native directory."""

    def work(root: Path) -> None:
        os.mkdir(root / "box")
        for number in range(600):
            name = root / f"{number}"
            with open(name, "xb") as file:
                file.write(b"%d" % number)
            os.link(name, root / "box" / f"{number}")
            os.rename(name, root / "box" / "last")
            with open(root / "box" / "log", "ab") as log:
                log.write(b"%d\n" % number)
            if number % 3:
                os.unlink(root / "box" / f"{number}")

    native = tmp_path / "native"
    native.mkdir()
    work(native)
    (merged / "work").mkdir()
    worker = threading.Thread(target=work, args=(merged / "work",))
    worker.start()
    moves = 0
    while worker.is_alive():
        done = ours("reexec", merged)
        assert done.returncode == 0, done.stderr
        moves += 1
    worker.join()
    assert moves
    assert not diff(snapshot(native), snapshot(merged / "work"), names=("native", "ours"))


def test_code_that_cannot_serve_is_refused(merged: Path, code: Path, ours: Ours) -> None:
    before = told(merged)
    original = (code / "overlay" / "fs.py").read_text()
    (code / "overlay" / "fs.py").write_text("raise ImportError('half an upgrade')\n")
    with open(merged / "held", "rb", buffering=0) as held:
        script = "from pyunionfs.transport import mount; import sys; mount.reexec(sys.argv[1])"
        done = subprocess.run([sys.executable, "-c", script, merged], capture_output=True, text=True)
        assert done.returncode != 0
        assert "stays as it is: ImportError: half an upgrade" in done.stderr
        assert told(merged) == before
        assert held.read() == b"held"
    (code / "overlay" / "fs.py").write_text(original)
    assert ours("reexec", merged).returncode == 0


def test_other_layers_are_refused(merged: Path, layers: Layers, ours: Ours) -> None:
    os.rename(layers.lower[0], layers.lower[0].with_name("aside"))
    layers.lower[0].mkdir()
    done = ours("reexec", merged)
    assert done.returncode == 1
    assert f"stays as it is: OSError: {layers.lower[0]} is not the directory that was mounted" in done.stderr
    assert (merged / "held").read_text() == "held"


def test_only_the_owner_may(merged: Path, ours: Ours) -> None:
    script = "from pyunionfs.transport import mount; import sys; mount.reexec(sys.argv[1])"
    before = told(merged)
    for path in (merged, *merged.parents):
        path.chmod(path.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", script, merged], capture_output=True, text=True, user=1000)
    assert "is somebody else's mount" in done.stderr
    assert told(merged) == before


@pytest.mark.parametrize("options", ["takeover=off", "transport=pyfuse3"])
def test_where_nobody_can_take_over(layers: Layers, requires: Callable[..., None], options: str) -> None:
    requires("pyunionfs")
    build(layers.lower[0], {"file": "x"})
    name, _, value = options.partition("=")
    with pyunionfs.mounted(layers.lower, layers.upper, layers.work, layers.merged, options={name: value}) as merged:
        done = subprocess.run([sys.executable, "-m", "pyunionfs", "reexec", merged], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert "no other daemon can take over" in done.stderr
        assert (merged / "file").read_text() == "x"


def test_what_is_not_ours(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "pyunionfs", "reexec", tmp_path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"pyunionfs: {tmp_path} is not mounted by pyunionfs\n")
