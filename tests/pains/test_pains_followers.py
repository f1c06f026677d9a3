"""Whoever follows a file that somebody else changes: watchers, lockers, sibling mounts."""

import ctypes
import fcntl
import os
import select
import struct
import subprocess
from contextlib import ExitStack
from pathlib import Path

from mounts import Layers, Mounter
from processes import in_processes
from sources import source
from trees import build

IN_MODIFY, IN_NONBLOCK = 2, os.O_NONBLOCK


@source("moby 31587")
def test_tail_shows_what_is_appended_to_a_lower_file(layers: Layers, our_mount: Mounter) -> None:
    build(layers.lower[0], {"log": "first\n"})
    with our_mount(layers) as merged:
        command = ["tail", "-F", "-n", "+1", "-s", "0.1", merged / "log"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tail:
            assert tail.stdout is not None
            try:
                assert tail.stdout.readline() == b"first\n"
                for line in (b"test\n", b"more\n"):
                    with (merged / "log").open("ab") as file:
                        file.write(line)
                    ready, _, _ = select.select([tail.stdout], [], [], 30)
                    assert ready, "tail has not seen it"
                    assert tail.stdout.readline() == line
            finally:
                tail.kill()


@source("moby 11705")
def test_a_watch_set_before_the_copy_up_tells_of_writes_after_it(layers: Layers, our_mount: Mounter) -> None:
    build(layers.lower[0], {"log": "first\n"})
    libc = ctypes.CDLL(None, use_errno=True)
    with our_mount(layers) as merged:
        watch = libc.inotify_init1(IN_NONBLOCK)
        try:
            assert libc.inotify_add_watch(watch, os.fsencode(merged / "log"), IN_MODIFY) > 0
            for _ in range(2):
                with (merged / "log").open("ab") as file:
                    file.write(b"more\n")
                ready, _, _ = select.select([watch], [], [], 30)
                assert ready, "no event"
                assert struct.unpack_from("=iI", os.read(watch, 4096))[1] == IN_MODIFY
        finally:
            os.close(watch)


@source("fuse-overlayfs 80")
def test_many_lock_one_file_and_all_come_through(layers: Layers, union: Mounter) -> None:
    """Each waits for the others, counts under the lock, and the mount answers meanwhile."""
    build(layers.lower[0], {"lock": "", "count": "0"})
    with union(layers) as merged:

        def work(number: int) -> None:
            for _ in range(10):
                with (merged / "lock").open("r+") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    count = int((merged / "count").read_text())
                    (merged / "count").write_text(str(count + 1))
                os.listdir(merged)

        in_processes(8, work)
        assert (merged / "count").read_text() == "80"


@source("branchfs 28")
def test_siblings_over_one_lower_write_each_to_its_own_upper(
    layers: Layers, our_mount: Mounter, tmp_path: Path
) -> None:
    build(layers.lower[0], {"file.txt": "base\n", "dir": {f"file{number}": "" for number in range(20)}})
    siblings = [layers.with_upper(tmp_path / f"sibling{number}") for number in range(4)]
    with ExitStack() as stack:
        merged = [stack.enter_context(our_mount(sibling)) for sibling in siblings]

        def work(number: int) -> None:
            (merged[number] / "file.txt").write_text(f"{number}\n")
            for step in range(20):
                with (merged[number] / f"dir/file{step}").open("a") as file:
                    file.write(f"{number}")
                (merged[number] / f"new{number}-{step}").write_text(f"{number}")

        in_processes(len(siblings), work)
    for number, sibling in enumerate(siblings):
        assert (sibling.upper / "file.txt").read_text() == f"{number}\n"
        assert {path.read_text() for path in (sibling.upper / "dir").iterdir()} == {f"{number}"}
        assert sorted(os.listdir(sibling.upper)) == sorted(
            ["dir", "file.txt", *(f"new{number}-{step}" for step in range(20))]
        )
    assert (layers.lower[0] / "file.txt").read_text() == "base\n"
