"""Timestamps: utimensat(2) to the nanosecond, and which change moves which time."""

import os
import time
from pathlib import Path

import pytest
from filesystems import Filesystem
from syscalls import USER, UTIME_NOW, UTIME_OMIT, as_user, utimensat
from trees import OLD_NS, File, Symlink

given = pytest.mark.tree

CLOCK_REALTIME_COARSE = 5  # what stamps files; linux/time.h


def tick() -> None:
    """Let the clock that stamps files move on."""
    before = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= before + 4_000_000:
        time.sleep(0.002)


def times(path: Path) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_mtime_ns, status.st_ctime_ns


@given({"file": "x", "dir": {"below": "x"}, "link": Symlink("file")})
def test_times_are_kept_to_the_nanosecond(fs: Filesystem) -> None:
    for name in ("file", "dir", "link"):
        os.utime(fs.path / name, ns=(987_654_321_987_654_321, 123_456_789_123_456_789), follow_symlinks=False)
        status = os.lstat(fs.path / name)
        assert (status.st_atime_ns, status.st_mtime_ns) == (
            987_654_321_987_654_321,
            123_456_789_123_456_789,
        ), name


@given({"file": "x"})
def test_times_before_1970(fs: Filesystem) -> None:
    os.utime(fs.path / "file", ns=(-1_500_000_000, -2_000_000_001))
    assert os.stat(fs.path / "file").st_mtime_ns == -2_000_000_001


@given({"file": "x"})
def test_utime_omit_leaves_a_time_alone(fs: Filesystem) -> None:
    utimensat(fs.path / "file", UTIME_OMIT, 5)
    assert os.stat(fs.path / "file").st_atime_ns >= OLD_NS
    assert os.stat(fs.path / "file").st_mtime_ns == 5
    utimensat(fs.path / "file", 7, UTIME_OMIT)
    assert os.stat(fs.path / "file").st_mtime_ns == 5
    assert os.stat(fs.path / "file").st_atime_ns >= 7


@given({"file": "x"})
def test_utime_now(fs: Filesystem) -> None:
    before = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    utimensat(fs.path / "file", UTIME_OMIT, UTIME_NOW)
    assert before <= os.stat(fs.path / "file").st_mtime_ns <= time.time_ns()


@pytest.mark.requires("other_users")
@given({"file": File("x", mode=0o666), "locked": File("x", mode=0o644)})
def test_a_writer_may_set_the_time_to_now_but_not_to_another(fs: Filesystem) -> None:
    as_user(fs.path, lambda: os.utime("file"))
    assert os.stat(fs.path / "file").st_mtime_ns > OLD_NS
    with pytest.raises(PermissionError):
        as_user(fs.path, lambda: os.utime("file", (1, 1)))
    with pytest.raises(PermissionError):
        as_user(fs.path, lambda: os.utime("locked"))


@pytest.mark.requires("other_users")
@given({"own": File("x", mode=0o444, uid=USER)})
def test_an_owner_may_set_any_time(fs: Filesystem) -> None:
    as_user(fs.path, lambda: os.utime("own", ns=(1, 2)))
    assert os.stat(fs.path / "own").st_mtime_ns == 2


@given({"file": "x"})
def test_writing_moves_mtime_and_ctime(fs: Filesystem) -> None:
    before = times(fs.path / "file")
    tick()
    with open(fs.path / "file", "ab") as file:
        file.write(b"y")
    after = times(fs.path / "file")
    assert after[0] > before[0]
    assert after[1] > before[1]


@given({"file": "x"})
def test_chmod_moves_ctime_only(fs: Filesystem) -> None:
    before = times(fs.path / "file")
    tick()
    os.chmod(fs.path / "file", 0o600)
    after = times(fs.path / "file")
    assert after[0] == before[0] == OLD_NS
    assert after[1] > before[1]


@given({"file": "x"})
def test_link_and_rename_and_xattr_move_ctime_only(fs: Filesystem) -> None:
    path = fs.path / "file"
    for action in (
        lambda: os.setxattr(path, "user.name", b"value"),
        lambda: os.link(path, fs.path / "second"),
        lambda: os.unlink(fs.path / "second"),
        lambda: os.removexattr(path, "user.name"),
    ):
        before = times(path)
        tick()
        action()
        after = times(path)
        assert after[0] == before[0]
        assert after[1] > before[1]


@given({"file": "content"})
def test_reading_does_not_move_mtime(fs: Filesystem) -> None:
    before = times(fs.path / "file")
    tick()
    assert (fs.path / "file").read_bytes() == b"content"
    os.close(os.open(fs.path / "file", os.O_RDWR))
    assert times(fs.path / "file")[0] == before[0]


@given({"dir": {"file": "x", "sub": {}}, "other": {}})
def test_a_change_of_entries_moves_the_times_of_the_directory(fs: Filesystem) -> None:
    directory = fs.path / "dir"
    for action in (
        lambda: open(directory / "new", "xb").close(),
        lambda: os.mkdir(directory / "newdir"),
        lambda: os.symlink("x", directory / "link"),
        lambda: os.mkfifo(directory / "fifo"),
        lambda: os.link(directory / "new", directory / "hard"),
        lambda: os.rename(directory / "new", directory / "renamed"),
        lambda: os.rename(directory / "renamed", fs.path / "other" / "moved"),
        lambda: os.rename(fs.path / "other" / "moved", directory / "back"),
        lambda: os.unlink(directory / "file"),
        lambda: os.rmdir(directory / "sub"),
    ):
        before = times(directory)
        tick()
        action()
        after = times(directory)
        assert after[0] > before[0]
        assert after[1] > before[1]


@given({"dir": {"file": "x", "sub": {"deep": "x"}}})
def test_changing_a_file_leaves_its_directories_alone(fs: Filesystem) -> None:
    before = [os.stat(fs.path / name).st_mtime_ns for name in ("dir", "dir/sub")]
    with open(fs.path / "dir/sub/deep", "ab") as file:
        file.write(b"more")
    os.chmod(fs.path / "dir/file", 0o600)
    assert [os.stat(fs.path / name).st_mtime_ns for name in ("dir", "dir/sub")] == before


def test_a_new_object_is_stamped_with_now(fs: Filesystem) -> None:
    before = time.clock_gettime_ns(CLOCK_REALTIME_COARSE)
    open(fs.path / "file", "xb").close()
    os.mkdir(fs.path / "dir")
    for name in ("file", "dir"):
        status = os.stat(fs.path / name)
        assert before <= status.st_mtime_ns <= time.time_ns()
        assert before <= status.st_ctime_ns <= time.time_ns()
        assert before <= status.st_atime_ns <= time.time_ns()


@given({"file": "content"})
def test_truncating_to_the_same_size_still_moves_mtime(fs: Filesystem) -> None:
    os.truncate(fs.path / "file", len("content"))
    assert os.stat(fs.path / "file").st_mtime_ns > OLD_NS


@given({"file": "content"})
def test_a_time_set_on_an_open_file_survives_its_close(fs: Filesystem) -> None:
    with open(fs.path / "file", "ab") as file:
        file.write(b"more")
        file.flush()
        os.utime(file.fileno(), ns=(3, 4))
    assert os.stat(fs.path / "file").st_mtime_ns == 4
