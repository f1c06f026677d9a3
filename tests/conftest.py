"""What all tests share: what this machine can do, fresh layers, and a sweep that nothing outlives the run.

Capabilities are probed, never guessed from a uid; a test that needs one asks for the fixture ``requires``.
"""

import fcntl
import functools
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# The helpers of these suites serve the others as well.
sys.path.insert(0, str(Path(__file__).parent / "image"))
sys.path.insert(0, str(Path(__file__).parent / "posix"))

import mounts
import syscalls

URING = {**mounts.PLAIN, "channel": "uring", "enable_uring": "on"}
PASSTHROUGH = {**mounts.PLAIN, "passthrough": "on"}


@contextmanager
def _scratch() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="pyunionfs-probe-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _kernel_overlay() -> str:
    with _scratch() as scratch, mounts.kernel(mounts.Layers.create(scratch)) as merged:
        (merged / "file").write_bytes(b"")
    return "yes"


def _kernel_overlay_userxattr() -> str:
    with _scratch() as scratch, mounts.kernel(mounts.Layers.create(scratch), mounts.USERXATTR) as merged:
        (merged / "file").write_bytes(b"")
    return "yes"


def _user_namespaces() -> str:
    subprocess.run(["unshare", "-Urm", "true"], check=True, capture_output=True)
    return "yes"


def _fuse() -> str:
    os.close(os.open("/dev/fuse", os.O_RDWR))
    return "yes"


def _fusermount3() -> str:
    path = shutil.which("fusermount3")
    if path is None:
        raise FileNotFoundError("fusermount3 is not in PATH")
    return "setuid" if os.stat(path).st_mode & stat.S_ISUID else "yes"


def _pyunionfs() -> str:
    if importlib.util.find_spec("pyfuse3") is None:
        raise ModuleNotFoundError("pyfuse3 is not installed")
    import pyunionfs

    if not hasattr(pyunionfs, "mounted"):
        raise NotImplementedError("pyunionfs cannot mount yet")
    _fuse()
    return "yes"


def _uring() -> str:
    """The module parameter is the machine's: it is set for a moment here, and by tests that use it for the rest of
    the run. Another run, which may do the same, waits for this moment to end."""
    with open("/sys/module/fuse/parameters/enable_uring") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = file.read().strip()
        with _scratch() as scratch, mounts.devfuse(mounts.Layers.create(scratch), URING) as merged:
            (merged / "file").write_bytes(b"")
        _set_uring(before)
    return "yes"


def _set_uring(value: str) -> None:
    with open("/sys/module/fuse/parameters/enable_uring", "w") as file:
        file.write(value)


def _passthrough() -> str:
    with _scratch() as scratch, mounts.devfuse(mounts.Layers.create(scratch), PASSTHROUGH) as merged:
        (merged / "file").write_bytes(b"")
    return "yes"


def _handles() -> str:
    with _scratch() as scratch:
        syscalls.name_to_handle_at(scratch)
    return "yes"


def _devices() -> str:
    with _scratch() as scratch:
        os.mknod(scratch / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.close(os.open(scratch / "null", os.O_RDONLY))
    return "yes"


def _trusted_xattrs() -> str:
    with _scratch() as scratch:
        os.setxattr(scratch, "trusted.pyunionfs", b"1")
    return "yes"


def _user_xattrs() -> str:
    with _scratch() as scratch:
        os.setxattr(scratch, "user.pyunionfs", b"1")
    return "yes"


def _other_users() -> str:
    with _scratch() as scratch:
        os.chown(scratch, syscalls.USER, syscalls.GROUP)
        syscalls.as_user(scratch, os.getuid)
    return "yes"


def _capabilities() -> str:
    with _scratch() as scratch:
        (scratch / "file").write_bytes(b"")
        os.setxattr(scratch / "file", "security.capability", bytes.fromhex("0100000200040000" + "00" * 12))
    return "yes"


def _drop_caches() -> str:
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("1\n")
    return "yes"


PROBES: dict[str, Callable[[], str]] = {
    "kernel_overlay": _kernel_overlay,
    "kernel_overlay_userxattr": _kernel_overlay_userxattr,
    "user_namespaces": _user_namespaces,
    "fuse": _fuse,
    "fusermount3": _fusermount3,
    "pyunionfs": _pyunionfs,
    "uring": _uring,
    "passthrough": _passthrough,
    "handles": _handles,
    "devices": _devices,
    "trusted_xattrs": _trusted_xattrs,
    "user_xattrs": _user_xattrs,
    "other_users": _other_users,
    "capabilities": _capabilities,
    "drop_caches": _drop_caches,
}


@functools.cache
def probe(name: str) -> tuple[bool, str]:
    """Whether this machine has a capability, and how or why not."""
    try:
        return True, PROBES[name]()
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--filesystem",
        action="append",
        metavar="NAME",
        help="run the posix suite on this filesystem only (may be given several times)",
    )
    parser.addoption(
        "--long",
        action="store_true",
        help="run the long profile: more cases, rounds and examples (an hour rather than minutes)",
    )


def pytest_report_header() -> list[str]:
    able = [name if how == "yes" else f"{name} ({how})" for name in PROBES for ok, how in [probe(name)] if ok]
    unable = [f"{name} ({why})" for name in PROBES for ok, why in [probe(name)] if not ok]
    return [f"this machine has: {', '.join(able)}"] + [f"this machine lacks: {line}" for line in unable]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("timeout") is None:
            # By signal: the test fails, its mounts are undone. By thread, the process would just end.
            item.add_marker(pytest.mark.timeout(300, method="signal"))


@pytest.fixture(scope="session")
def requires() -> Callable[..., None]:
    """``requires("devices", ...)`` skips the test, with the reason, where a capability is absent."""

    def check(*names: str) -> None:
        for name in names:
            able, how = probe(name)
            if not able:
                pytest.skip(f"needs {name}: {how}")

    return check


@pytest.fixture
def layers(tmp_path: Path) -> mounts.Layers:
    """Fresh directories for a union of one lower."""
    return mounts.Layers.create(tmp_path)


@pytest.fixture
def kernel_mount(requires: Callable[..., None]) -> mounts.Mounter:
    """Mounts the kernel's overlay for a ``with``."""
    requires("kernel_overlay")
    return mounts.kernel


@pytest.fixture
def our_mount(requires: Callable[..., None]) -> mounts.Mounter:
    """Mounts pyunionfs for a ``with``."""
    requires("pyunionfs")
    return mounts.ours


@pytest.fixture(params=["kernel", "devfuse", "pyfuse3"])
def union(request: pytest.FixtureRequest, requires: Callable[..., None]) -> mounts.Mounter:
    """Each implementation in turn; what the kernel fails is a wrong test."""
    requires("kernel_overlay" if request.param == "kernel" else "pyunionfs")
    return mounts.MOUNTERS[request.param]


@pytest.fixture(scope="session", autouse=True)
def uring_as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """Put back the module parameter that mounts with enable_uring=on have set, if there were any in this run."""
    try:
        with open("/sys/module/fuse/parameters/enable_uring") as file:
            before = file.read().strip()
    except OSError:
        before = ""
    yield
    if before and os.geteuid() == 0 and any("uring" in item.nodeid for item in request.session.items):
        _set_uring(before)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the run if a mount or a daemon of ours is still there, and remove it."""
    yield
    base = tmp_path_factory.getbasetemp()
    left_mounts = [path for path in mounts.mount_points() if path.is_relative_to(base)]
    left_daemons = mounts.daemons(base)
    for _ in range(50):
        if not left_daemons:
            break
        time.sleep(0.1)  # a daemon ends a moment after its mount
        left_daemons = mounts.daemons(base)
    for path in reversed(left_mounts):
        syscalls.umount(path, syscalls.MNT_DETACH)
    for pid in left_daemons:
        os.kill(pid, signal.SIGKILL)
    assert not left_mounts
    assert not left_daemons
