"""What is done while there is no request. Idle processors poll as long as requests come, and halt when none do,
whatever became of the daemon; the root is looked into; and files are read that somebody is likely to want.
"""

import itertools
import json
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import mounts
import pytest
from mounts import Layers
from pagecache import is_cached
from threads import repeating

from pyunionfs.transport.devfuse import idle


def latency() -> int:
    """What all who wish for one have come to, in us."""
    with open(idle.DEVICE, "rb", buffering=0) as device:
        return int(struct.unpack("=i", device.read(4))[0])


@contextmanager
def asking(merged: Path) -> Iterator[None]:
    """One request after the other."""
    numbers = itertools.count()
    with repeating(lambda: os.path.lexists(merged / str(next(numbers)))):
        yield


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not (so := condition()) and time.monotonic() < deadline:
        time.sleep(0.001)
    return so


@pytest.fixture
def polling(layers: Layers, requires: Callable[..., None]) -> AbstractContextManager[Path]:
    requires("pyunionfs")
    if not os.access(idle.DEVICE, os.R_OK | os.W_OK):
        pytest.skip(f"{idle.DEVICE} is not ours to open")
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one processor has nobody to wait for")
    if latency() == 0:
        pytest.skip("somebody else has processors poll")
    return mounts.devfuse(layers, {**mounts.PLAIN, "idle": "poll"})


def test_they_poll_while_requests_come_and_halt_when_none_do(polling: AbstractContextManager[Path]) -> None:
    with polling as merged:
        assert latency() > 0
        with asking(merged):
            assert eventually(lambda: latency() == 0)
        assert eventually(lambda: latency() > 0)


def test_a_killed_daemon_leaves_none_polling(polling: AbstractContextManager[Path]) -> None:
    with polling as merged:
        with asking(merged):
            for _ in range(3):
                assert eventually(lambda: latency() == 0)
                os.kill(mounts.daemon_of(merged), signal.SIGKILL)
        os.path.lexists(merged / "one more, which the last daemon answers")
        assert eventually(lambda: latency() > 0)


def test_an_unmounted_union_leaves_none_polling(polling: AbstractContextManager[Path]) -> None:
    with polling as merged, asking(merged):
        assert eventually(lambda: latency() == 0)
    assert eventually(lambda: latency() > 0)


def test_the_root_is_looked_into_before_anybody_comes(layers: Layers, requires: Callable[..., None]) -> None:
    """With ``dialects=on`` directories are opened to see whether others have marked them as opaque."""
    requires("pyunionfs")
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one processor has nobody to work for meanwhile")
    directory = layers.lower[0] / "dir"
    directory.mkdir()
    with mounts.devfuse(layers, {**mounts.PLAIN, "dialects": "on"}) as merged:
        held = Path(f"/proc/{mounts.daemon_of(merged)}/fd")
        assert eventually(lambda: any(fd.exists() and fd.samefile(directory) for fd in held.iterdir()))


def copy(path: Path) -> None:
    with open(path, "rb") as source, open(path.parent / "copy", "wb") as target:
        assert os.copy_file_range(source.fileno(), target.fileno(), 1 << 20) == 4096


def append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"!")


@pytest.mark.parametrize("take", [Path.read_bytes, copy, append], ids=["reading", "copying", "copying up"])
def test_who_waits_for_files_finds_others_read(
    layers: Layers, requires: Callable[..., None], take: Callable[[Path], object]
) -> None:
    requires("pyunionfs", "drop_caches")
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one processor has nobody to work for meanwhile")
    directory = layers.lower[0] / "dir"
    directory.mkdir()
    for number in range(300):
        (directory / str(number)).write_bytes(bytes(4096))
    os.sync()
    with mounts.devfuse(layers) as merged:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
        if is_cached(directory / "0"):
            pytest.skip("the layers are in memory")
        taken = []
        for number in range(150):
            begun = time.perf_counter()
            take(merged / "dir" / str(number))
            taken.append(time.perf_counter() - begun)
        if sorted(taken)[75] > 0.002:
            pytest.skip("the disk is slow: it is not asked for more")
        assert any(is_cached(directory / str(number)) for number in range(150, 300))


@pytest.mark.parametrize(("options", "told"), [({"idle": "halt"}, "halt"), ({"idle": "poll"}, "poll")])
def test_a_mount_tells_of_it(layers: Layers, polling: object, options: dict[str, str], told: str) -> None:
    with mounts.devfuse(layers, {**mounts.PLAIN, **options}) as merged:
        assert json.loads(os.getxattr(merged, "user.pyunionfs"))["idle"] == told


def test_who_may_not_have_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(idle, "DEVICE", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):
        idle.check()
