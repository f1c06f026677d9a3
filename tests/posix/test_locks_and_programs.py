"""statfs, locks between processes, and running programs."""

import fcntl
import os
import shutil
import stat
import subprocess
from collections.abc import Callable

import pytest
from filesystems import Filesystem
from syscalls import in_child
from trees import File

given = pytest.mark.tree

SCRIPT = b'#!/bin/sh\necho from the script "$1"\n'


def test_statfs(fs: Filesystem) -> None:
    status = os.statvfs(fs.path)
    assert status.f_bsize > 0
    assert status.f_blocks > status.f_bavail > 0
    assert status.f_files >= status.f_ffree >= 0
    assert status.f_namemax == 255


def refused(lock: Callable[[], None]) -> bool:
    """Whether another process is refused a lock that it will not wait for."""

    def attempt() -> bool:
        try:
            lock()
        except BlockingIOError:
            return True
        return False

    return in_child(attempt)


@given({"file": "x" * 100})
def test_flock(fs: Filesystem) -> None:
    def other(mode: int) -> Callable[[], None]:
        def lock() -> None:
            with open(fs.path / "file", "rb") as file:
                fcntl.flock(file, mode | fcntl.LOCK_NB)

        return lock

    with open(fs.path / "file", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert refused(other(fcntl.LOCK_EX))
        assert refused(other(fcntl.LOCK_SH))
        fcntl.flock(file, fcntl.LOCK_SH)
        assert refused(other(fcntl.LOCK_EX))
        assert not refused(other(fcntl.LOCK_SH))
    assert not refused(other(fcntl.LOCK_EX))


@given({"file": "x" * 100})
def test_posix_locks_of_ranges(fs: Filesystem) -> None:
    def other(start: int, length: int) -> Callable[[], None]:
        def lock() -> None:
            with open(fs.path / "file", "r+b") as file:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)

        return lock

    with open(fs.path / "file", "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 20)
        assert refused(other(25, 1))
        assert refused(other(0, 0))
        assert not refused(other(0, 20))
        assert not refused(other(30, 10))
        fcntl.lockf(file, fcntl.LOCK_UN, 10, 20)
        assert not refused(other(25, 1))


@given({"file": "x"})
def test_a_lock_taken_before_the_copy_up_still_holds(fs: Filesystem) -> None:
    def lock() -> None:
        with open(fs.path / "file", "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    with open(fs.path / "file", "r+b", buffering=0) as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        file.write(b"copied up")
        assert refused(lock)


@given({"file": "x"})
def test_a_process_waits_for_a_lock(fs: Filesystem) -> None:
    """The child can only go on when the parent lets go; what it writes comes last."""
    reader, writer = os.pipe()
    with open(fs.path / "file", "r+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        pid = os.fork()
        if pid == 0:
            try:
                with open(fs.path / "file", "ab", buffering=0) as again:
                    os.write(writer, b"!")
                    fcntl.flock(again, fcntl.LOCK_EX)
                    again.write(b"child")
            finally:
                os._exit(0)
        os.read(reader, 1)
        file.seek(0, os.SEEK_END)
        file.write(b"parent")
        fcntl.flock(file, fcntl.LOCK_UN)
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    assert (fs.path / "file").read_bytes() == b"xparentchild"


@given({"script": File(SCRIPT, mode=0o755)})
def test_a_script_runs_before_and_after_a_copy_up(fs: Filesystem) -> None:
    def run(word: str) -> bytes:
        return subprocess.run([fs.path / "script", word], check=True, capture_output=True).stdout

    assert run("one") == b"from the script one\n"
    with open(fs.path / "script", "ab") as file:
        file.write(b"echo more\n")
    assert run("two") == b"from the script two\nmore\n"


def test_a_copied_program_runs(fs: Filesystem) -> None:
    program = shutil.copy(shutil.which("cat") or "/bin/cat", fs.path / "program")
    assert subprocess.run([program], input=b"through", check=True, capture_output=True).stdout == b"through"
    os.chmod(program, 0o644)
    with pytest.raises(PermissionError):
        subprocess.run([program], check=False)


def test_a_program_replaced_while_it_runs(fs: Filesystem) -> None:
    program = shutil.copy(shutil.which("cat") or "/bin/cat", fs.path / "program")
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"one")
        process.stdin.flush()
        assert process.stdout.read(3) == b"one"
        shutil.copy(program, fs.path / "new")
        os.rename(fs.path / "new", program)
        process.stdin.write(b"two")
        process.stdin.close()
        assert process.stdout.read() == b"two"
    assert stat.S_IMODE(os.stat(program).st_mode) & 0o111
