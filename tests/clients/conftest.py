"""The fixtures of the tests of real programs: each runs on pyunionfs, and on the kernel's overlay.

What fails on the kernel's overlay is a wrong test. Its ``index=on`` makes hard links behave as natively. Container
tools keep everything in ``place``, and call us by the name of ``helper``.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import mounts
import pytest
from containers import (
    APPLETS,
    Docker,
    Drove,
    Storage,
    needed,
    run,
)
from mounts import Layers
from pairs import Pair, build_layers, merge_natively
from trees import OLD_NS, snapshot

import pyunionfs

_DROVE = "a program driven"


@contextmanager
def ours(layers: Layers) -> Iterator[Path]:
    """As a person mounts it: without any option."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse is missing or not ours to open")
    with pyunionfs.mounted(lower=list(layers.lower), upper=layers.upper, work=layers.work) as path:
        yield Path(path)


@contextmanager
def kernel(layers: Layers) -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            merged = stack.enter_context(mounts.kernel(layers, {**mounts.PLAIN, "index": "on"}))
        except OSError as error:
            pytest.skip(f"the kernel's overlay cannot be mounted here: {error.strerror}")
        yield merged


Mount = Callable[[Layers], AbstractContextManager[Path]]


@contextmanager
def pyfuse3(layers: Layers) -> Iterator[Path]:
    """Through libfuse."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse is missing or not ours to open")
    with mounts.pyfuse3(layers, {}) as path:
        yield path


@pytest.fixture(params=[ours, pyfuse3, kernel], ids=["pyunionfs", "pyfuse3", "kernel"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    mount: Mount = request.param
    lower = build_layers(tmp_path)
    for name in ("native", "upper", "work", "merged", "elsewhere"):
        (tmp_path / name).mkdir()
    merge_natively(lower, tmp_path / "native")
    os.utime(tmp_path / "upper", ns=(OLD_NS, OLD_NS))
    before = [snapshot(layer, upper=True) for layer in lower]
    with mount(Layers(lower, tmp_path / "upper", tmp_path / "work", tmp_path / "merged")) as merged:
        yield Pair(merged, tmp_path / "native", tmp_path / "elsewhere")
    assert [snapshot(layer, upper=True) for layer in lower] == before, "a lower layer has changed"


# ---- container tools


def unmount_below(path: Path) -> list[Path]:
    points = [point for point in mounts.mount_points() if point.is_relative_to(path)]
    for point in reversed(points):
        subprocess.run(["umount", "-l", point], check=False)
    return points


def still_there(path: Path) -> dict[int, str]:
    """The processes that name a path in ``path`` and do not end within ten seconds."""
    deadline = time.monotonic() + 10
    while (alive := mounts.daemons(path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return alive


@pytest.fixture
def place(requires: Callable[..., None]) -> Iterator[Path]:
    """Where a tool keeps everything; afterwards nothing is mounted there, and nobody serves it.

    A short path: with a long one podman waits 20 seconds for each container, whatever mounts it. What podman binds
    for itself, the directory of its layers, it leaves so where two of its processes end at once.
    """
    requires("pyunionfs", "devices")
    path = Path(tempfile.mkdtemp(prefix="c-"))
    yield path
    alive = still_there(path)  # podman cleans up after a container by itself, and mounts for that
    left = set(unmount_below(path)) - {path / "storage/overlay"}
    still_there(path)
    shutil.rmtree(path)
    assert not left
    assert not alive


@pytest.fixture
def helper(place: Path) -> Path:
    """The program under the name that the tools call."""
    directory = place / "bin"
    directory.mkdir()
    (directory / "fuse-overlayfs").symlink_to(Path(sys.executable).with_name("pyunionfs"))
    return directory / "fuse-overlayfs"


@pytest.fixture
def image(place: Path) -> Path:
    """A root directory with a shell, as a tar."""
    needed("busybox")
    root = place / "rootfs"
    for directory in ("bin", "data/dir", "tmp", "proc", "dev", "sys"):
        (root / directory).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    (root / "data/old").write_text("old\n")
    (root / "data/dir/x").write_text("x\n")
    run("tar", "-C", root, "-cf", place / "rootfs.tar", ".")
    return place / "rootfs.tar"


@pytest.fixture
def storage(place: Path, helper: Path, image: Path, drove: Drove) -> Iterator[Storage]:
    needed("podman", "runc")
    drove(run("podman", "--version"))
    made = Storage(place, helper)
    made.podman("import", image, "img:1")
    try:
        yield made
    finally:
        made.clear()


@pytest.fixture
def docker(place: Path, helper: Path, image: Path, drove: Drove) -> Iterator[Docker]:
    needed("dockerd", "docker", "runc", "containerd")
    socket, log = place / "s", place / "dockerd.log"
    command = ["dockerd", "--data-root", place / "d", "--exec-root", place / "e", "-H", f"unix://{socket}"]
    command += ["--pidfile", place / "p", "--storage-driver", "fuse-overlayfs"]
    command += ["--iptables=false", "--ip6tables=false", "--bridge=none"]
    env = {**os.environ, "PATH": f"{helper.parent}:{os.environ['PATH']}"}
    with log.open("wb") as output, subprocess.Popen(command, env=env, stdout=output, stderr=output) as daemon:
        try:
            deadline = time.monotonic() + 30
            while "API listen" not in log.read_text():
                if daemon.poll() is not None or time.monotonic() > deadline:
                    pytest.skip(f"dockerd does not run here: {log.read_text().strip().splitlines()[-1]}")
                time.sleep(0.1)
            drove(run("dockerd", "--version"))
            client = Docker(socket)
            client("import", image, "img:1")
            yield client
            for container in client("ps", "-aq").split():
                client("rm", "-f", container)
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(30)


@pytest.fixture
def drove(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Tell the summary which version of a program a test has driven."""
    return lambda version: record_property(_DROVE, version.strip())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which programs there were."""
    versions = {
        str(value)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == _DROVE
    }
    if versions:
        terminalreporter.section("programs driven")
        for version in sorted(versions):
            terminalreporter.write_line(version)
