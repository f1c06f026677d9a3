"""Many processes at once: nothing is lost, and no errno appears that the operations do not have."""

import errno
import hashlib
import os
import random
from collections.abc import Callable

import pytest
from filesystems import Filesystem
from trees import snapshot

given = pytest.mark.tree

PROCESSES = 16
STEPS = 60
NAMES = [f"{directory}/{name}" for directory in ("one", "two") for name in ("a", "b", "c", "d")]
EXPECTED = {errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EXDEV, errno.EBUSY}


def in_processes(count: int, work: Callable[[int], None]) -> None:
    """Run ``work(number)`` in that many processes at once; fail if one of them fails."""
    children = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                work(number)
                status = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * count


def random_step(random: random.Random) -> None:
    one, two = random.choice(NAMES), random.choice(NAMES)
    match random.randrange(11):
        case 0:
            os.close(os.open(one, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        case 1:
            with open(one, "ab") as file:
                file.write(b"x" * random.randrange(10_000))
        case 2:
            with open(one, "rb") as file:
                file.read()
        case 3:
            os.unlink(one)
        case 4:
            os.mkdir(one)
        case 5:
            os.rmdir(one)
        case 6:
            os.rename(one, two)
        case 7:
            os.link(one, two, follow_symlinks=False)
        case 8:
            os.chmod(one, random.choice([0o644, 0o755]))
        case 9:
            os.listdir(os.path.dirname(one))
        case 10:
            os.truncate(one, random.randrange(100))


@given({"one": {"a": "x" * 5000, "b": {}, "c": "y"}, "two": {"a": {"full": "x"}, "d": "z"}})
def test_random_operations_give_expected_errors_only(fs: Filesystem) -> None:
    os.chdir(fs.path)

    def work(number: int) -> None:
        choices = random.Random(number)
        for _ in range(STEPS):
            try:
                random_step(choices)
            except OSError as error:
                # link(2) of a directory is refused as well
                if error.errno not in EXPECTED and not (error.errno == errno.EPERM and error.filename2):
                    raise

    in_processes(PROCESSES, work)
    for name in snapshot("."):
        assert os.path.lexists(name)
    assert {entry for entry in os.listdir("one") if not os.path.lexists(f"one/{entry}")} == set()


@given({"dir": {f"lower{number}": b"old" for number in range(PROCESSES)}})
def test_each_process_finds_what_it_wrote(fs: Filesystem) -> None:
    def work(number: int) -> None:
        with open(fs.path / "dir" / f"lower{number}", "ab") as file:
            file.write(b"+%d" % number)
        for step in range(20):
            path = fs.path / "dir" / f"new{number}-{step}"
            data = hashlib.sha256(f"{number} {step}".encode()).digest() * 100
            path.write_bytes(data)
            assert path.read_bytes() == data
            os.rename(path, f"{path}.renamed")

    in_processes(PROCESSES, work)
    assert len(os.listdir(fs.path / "dir")) == PROCESSES * 21
    for number in range(PROCESSES):
        assert (fs.path / "dir" / f"lower{number}").read_bytes() == b"old+%d" % number


@given({"file": b"start\n"})
def test_one_file_is_copied_up_once(fs: Filesystem) -> None:
    """All append to one lower file at the same moment."""

    def work(number: int) -> None:
        with open(fs.path / "file", "ab", buffering=0) as file:
            for step in range(10):
                file.write(b"%02d:%02d\n" % (number, step))

    in_processes(PROCESSES, work)
    lines = (fs.path / "file").read_bytes().splitlines()
    assert lines[0] == b"start"
    assert sorted(lines[1:]) == [b"%02d:%02d" % (number, step) for number in range(PROCESSES) for step in range(10)]


def test_one_of_many_creates_the_file(fs: Filesystem) -> None:
    def work(number: int) -> None:
        for step in range(20):
            try:
                descriptor = os.open(fs.path / f"file{step}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                continue
            os.write(descriptor, b"%d" % number)
            os.close(descriptor)
            with open(fs.path / f"won{step}-{number}", "xb"):
                pass

    in_processes(PROCESSES, work)
    for step in range(20):
        winners = [name for name in os.listdir(fs.path) if name.startswith(f"won{step}-")]
        assert winners == [f"won{step}-{(fs.path / f'file{step}').read_text()}"]


@given({"dir": {"file": ""}})
def test_mkdir_and_rmdir_of_one_name(fs: Filesystem) -> None:
    os.unlink(fs.path / "dir" / "file")

    def work(number: int) -> None:
        for _ in range(30):
            for action in (os.mkdir, os.rmdir):
                try:
                    action(fs.path / "dir" / "name")
                except (FileExistsError, FileNotFoundError):
                    pass

    in_processes(4, work)
    assert os.listdir(fs.path / "dir") in ([], ["name"])
