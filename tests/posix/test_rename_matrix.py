"""rename(2) and renameat2(2): every kind of object onto every other, with each flag."""

import errno
import os
from itertools import product
from pathlib import Path

import pytest
from filesystems import Filesystem
from syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from trees import Fifo, HardLink, Node, Symlink, diff, snapshot

given = pytest.mark.tree

KINDS: dict[str, Node] = {
    "file": b"content",
    "empty": {},
    "full": {"below": {"file": "deep"}},
    "symlink": Symlink("nowhere"),
    "fifo": Fifo(),
}
TREE: dict[str, Node] = {
    "from": KINDS,
    "to": KINDS,
}
DIRECTORIES = ("empty", "full")
OTHERS = ("file", "symlink", "fifo")


def expected_error(source: str, target: str) -> int | None:
    """What rename(2) of ``source`` over an existing ``target`` gives."""
    if source in DIRECTORIES and target not in DIRECTORIES:
        return errno.ENOTDIR
    if source not in DIRECTORIES and target in DIRECTORIES:
        return errno.EISDIR
    if source in DIRECTORIES and target == "full":
        return errno.ENOTEMPTY
    return None


def tree_of(path: Path) -> object:
    """The objects below a path, without the times that a rename may move."""
    kind = os.lstat(path).st_mode
    return kind, snapshot(path) if path.is_dir() and not path.is_symlink() else os.lstat(path).st_ino


def check_rename_to_absent(fs: Filesystem, source: str, directory: str) -> None:
    before = tree_of(fs.path / "from" / source)
    os.rename(fs.path / "from" / source, fs.path / directory / "absent")
    assert tree_of(fs.path / directory / "absent") == before
    assert not os.path.lexists(fs.path / "from" / source)
    left = set(KINDS) - {source}
    assert set(os.listdir(fs.path / "from")) == (left | {"absent"} if directory == "from" else left)
    assert set(os.listdir(fs.path / "to")) == (set(KINDS) | {"absent"} if directory == "to" else set(KINDS))


@given(TREE)
@pytest.mark.parametrize("directory", ["from", "to"])
@pytest.mark.parametrize("source", OTHERS)
def test_rename_to_an_absent_name(fs: Filesystem, source: str, directory: str) -> None:
    check_rename_to_absent(fs, source, directory)


@given(TREE)
@pytest.mark.parametrize("directory", ["from", "to"])
@pytest.mark.parametrize("source", DIRECTORIES)
def test_rename_of_a_directory_to_an_absent_name(fs: Filesystem, source: str, directory: str) -> None:
    check_rename_to_absent(fs, source, directory)


def check_rename_over(fs: Filesystem, source: str, target: str) -> None:
    before = tree_of(fs.path / "from" / source)
    whole = snapshot(fs.path)
    error = expected_error(source, target)
    if error is None:
        os.rename(fs.path / "from" / source, fs.path / "to" / target)
        assert tree_of(fs.path / "to" / target) == before
        assert sorted(os.listdir(fs.path / "from")) == sorted(set(KINDS) - {source})
        assert sorted(os.listdir(fs.path / "to")) == sorted(KINDS)
    else:
        with pytest.raises(OSError) as caught:
            os.rename(fs.path / "from" / source, fs.path / "to" / target)
        assert caught.value.errno == error
        assert not diff(whole, snapshot(fs.path))


@given(TREE)
@pytest.mark.parametrize(
    ("source", "target"), [pair for pair in product(KINDS, KINDS) if not set(pair) <= set(DIRECTORIES)]
)
def test_rename_over_an_existing_name(fs: Filesystem, source: str, target: str) -> None:
    check_rename_over(fs, source, target)


@given(TREE)
@pytest.mark.parametrize(("source", "target"), [*product(DIRECTORIES, DIRECTORIES)])
def test_rename_of_a_directory_over_a_directory(fs: Filesystem, source: str, target: str) -> None:
    check_rename_over(fs, source, target)


@given(TREE)
@pytest.mark.parametrize("target", DIRECTORIES)
def test_rename_of_a_new_directory_over_a_directory(fs: Filesystem, target: str) -> None:
    os.mkdir(fs.path / "new")
    (fs.path / "new" / "inside").write_bytes(b"")
    if target == "full":
        with pytest.raises(OSError) as caught:
            os.rename(fs.path / "new", fs.path / "to" / target)
        assert caught.value.errno == errno.ENOTEMPTY
    else:
        os.rename(fs.path / "new", fs.path / "to" / target)
        assert os.listdir(fs.path / "to" / target) == ["inside"]


@given(TREE)
@pytest.mark.parametrize("target", ["file", "empty", "full"])
@pytest.mark.parametrize("source", ["file", "empty", "full"])
def test_noreplace_never_replaces(fs: Filesystem, source: str, target: str) -> None:
    whole = snapshot(fs.path)
    with pytest.raises(FileExistsError):
        renameat2(fs.path / "from" / source, fs.path / "to" / target, RENAME_NOREPLACE)
    assert not diff(whole, snapshot(fs.path))


@given(TREE)
@pytest.mark.parametrize("source", ["file", "symlink"])
def test_noreplace_to_an_absent_name(fs: Filesystem, source: str) -> None:
    before = tree_of(fs.path / "from" / source)
    renameat2(fs.path / "from" / source, fs.path / "to" / "absent", RENAME_NOREPLACE)
    assert tree_of(fs.path / "to" / "absent") == before
    assert not os.path.lexists(fs.path / "from" / source)


def check_exchange(fs: Filesystem, one: str, two: str) -> None:
    first, second = tree_of(fs.path / "from" / one), tree_of(fs.path / "to" / two)
    renameat2(fs.path / "from" / one, fs.path / "to" / two, RENAME_EXCHANGE)
    assert tree_of(fs.path / "from" / one) == second
    assert tree_of(fs.path / "to" / two) == first
    assert sorted(os.listdir(fs.path / "from")) == sorted(os.listdir(fs.path / "to")) == sorted(KINDS)


@given(TREE)
@pytest.mark.parametrize(("one", "two"), [*product(OTHERS, OTHERS)])
def test_exchange(fs: Filesystem, one: str, two: str) -> None:
    check_exchange(fs, one, two)


@given(TREE)
@pytest.mark.parametrize(("one", "two"), [pair for pair in product(KINDS, KINDS) if set(pair) & set(DIRECTORIES)])
def test_exchange_with_a_directory(fs: Filesystem, one: str, two: str) -> None:
    check_exchange(fs, one, two)


@given({"full": {"below": {"file": "deep"}}, "file": "x"})
def test_exchange_of_new_directories(fs: Filesystem) -> None:
    for name in ("one", "two"):
        os.mkdir(fs.path / name)
        (fs.path / name / name).write_bytes(b"")
    renameat2(fs.path / "one", fs.path / "two", RENAME_EXCHANGE)
    assert os.listdir(fs.path / "one") == ["two"]
    renameat2(fs.path / "one", fs.path / "file", RENAME_EXCHANGE)
    assert os.listdir(fs.path / "file") == ["two"]
    assert (fs.path / "one").read_bytes() == b"x"


@given(TREE)
def test_exchange_needs_both(fs: Filesystem) -> None:
    with pytest.raises(FileNotFoundError):
        renameat2(fs.path / "from" / "file", fs.path / "to" / "absent", RENAME_EXCHANGE)
    with pytest.raises(FileNotFoundError):
        renameat2(fs.path / "from" / "absent", fs.path / "to" / "file", RENAME_EXCHANGE)


@given(TREE)
def test_flags_exclude_each_other(fs: Filesystem) -> None:
    with pytest.raises(OSError) as caught:
        renameat2(fs.path / "from/file", fs.path / "to/file", RENAME_EXCHANGE | RENAME_NOREPLACE)
    assert caught.value.errno == errno.EINVAL


@given(TREE)
def test_a_directory_does_not_go_into_itself(fs: Filesystem) -> None:
    full = fs.path / "from" / "full"
    for target in (full / "new", full / "below" / "new"):
        with pytest.raises(OSError) as caught:
            os.rename(full, target)
        assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError) as caught:
        os.rename(full / "below" / "file", full)
    assert caught.value.errno in (errno.ENOTEMPTY, errno.EISDIR)
    with pytest.raises(OSError) as caught:
        renameat2(full, full / "below", RENAME_EXCHANGE)
    assert caught.value.errno == errno.EINVAL


@given(TREE)
def test_renaming_what_does_not_exist(fs: Filesystem) -> None:
    with pytest.raises(FileNotFoundError):
        os.rename(fs.path / "absent", fs.path / "new")
    with pytest.raises(FileNotFoundError):
        os.rename(fs.path / "from" / "file", fs.path / "absent" / "new")
    with pytest.raises(NotADirectoryError):
        os.rename(fs.path / "from" / "file", fs.path / "to" / "file" / "new")


@given({"one": "same", "two": HardLink("one")})
def test_renaming_onto_another_name_of_the_same_file_does_nothing(fs: Filesystem) -> None:
    os.rename(fs.path / "one", fs.path / "two")
    assert sorted(os.listdir(fs.path)) == ["one", "two"]
    assert (fs.path / "one").read_bytes() == b"same"


@given({"file": "x", "dir": {}})
def test_renaming_onto_itself_does_nothing(fs: Filesystem) -> None:
    for name in ("file", "dir"):
        os.rename(fs.path / name, fs.path / name)
    assert sorted(os.listdir(fs.path)) == ["dir", "file"]


@given({"file": "first", "other": "second"})
def test_the_old_name_can_be_used_again(fs: Filesystem) -> None:
    for _ in range(3):
        os.rename(fs.path / "file", fs.path / "saved")
        (fs.path / "file").write_bytes(b"new")
        os.rename(fs.path / "other", fs.path / "file")
        os.rename(fs.path / "saved", fs.path / "other")
    assert sorted(os.listdir(fs.path)) == ["file", "other"]
    assert {(fs.path / name).read_bytes() for name in ("file", "other")} == {b"first", b"second"}


@given({"file": "content"})
def test_an_open_file_survives_the_rename_over_it(fs: Filesystem) -> None:
    (fs.path / "new").write_bytes(b"new")
    with open(fs.path / "file", "r+b", buffering=0) as old:
        os.rename(fs.path / "new", fs.path / "file")
        assert old.read() == b"content"
        old.write(b"+")
        assert os.fstat(old.fileno()).st_nlink == 0
    assert (fs.path / "file").read_bytes() == b"new"


@given({"dir": {"file": "x"}})
def test_a_moved_directory_takes_its_open_files_along(fs: Filesystem) -> None:
    os.mkdir(fs.path / "new")
    (fs.path / "new" / "file").write_bytes(b"x")
    with open(fs.path / "new" / "file", "ab", buffering=0) as file:
        os.rename(fs.path / "new", fs.path / "dir" / "moved")
        file.write(b"y")
    assert (fs.path / "dir" / "moved" / "file").read_bytes() == b"xy"


def test_moving_a_directory_changes_its_parent(fs: Filesystem) -> None:
    for name in ("one", "two", "one/child"):
        os.mkdir(fs.path / name)
    os.rename(fs.path / "one/child", fs.path / "two/child")
    assert os.stat(fs.path / "two/child/..").st_ino == os.stat(fs.path / "two").st_ino
    assert os.stat(fs.path / "two/child/../..").st_ino == os.stat(fs.path).st_ino
